// What was in force when, what changed, and the way back.
import { useState } from 'preact/hooks'
import { call, query, Refusal, type Difference, type RevisionSummary } from '../api'
import { linkTo, useMay, useQuery, type Route } from '../hooks'
import { ago, moment } from '../format'
import { Answered, Badge, Dialog, Empty, Page, Panel, Table, When } from '../ui'

export function Revisions({ route }: { route: Route }) {
  const [limit, setLimit] = useState(50)
  const list = useQuery<RevisionSummary[]>('/revisions' + query({ limit }))
  const number = Number(route.args.get('number') ?? 0), newest = list.data?.[0]?.number ?? 0
  const close = () => { location.hash = linkTo('revisions'); void list.refresh() }
  return (
    <Page title="Revisions" lead="Every configuration that was ever in force">
      <Panel>
        <Answered of={list} empty={data => data.length === 0 ? <Empty title="No revision yet">The first configuration makes the first one: ./evenkeel apply evenkeel.yaml.</Empty> : null}>
          {data => <>
            <Table caption="Revisions" head={['Revision', 'When', 'Who', 'Why']} rows={data.map(r => [
              <><a href={linkTo('revisions', { number: r.number })}><b>{r.number}</b></a> {r.number === newest && <Badge tone="ok">in force</Badge>}</>, <When at={r.created_at}>{moment(r.created_at)} <span class="note">{ago(r.created_at)}</span></When>, r.author, <span class="words">{r.message || '–'}</span>,
            ])} />
            {data.length === limit && limit < 500 && <button type="button" onClick={() => setLimit(limit + 100)}>Show more</button>}
          </>}
        </Answered>
      </Panel>
      {number > 0 && newest > 0 && <RevisionDialog number={number} newest={newest} onClose={close} />}
    </Page>
  )
}

function RevisionDialog({ number, newest, onClose }: { number: number; newest: number; onClose: () => void }) {
  const mayEdit = useMay('admin')
  const [against, setAgainst] = useState<'before' | 'now'>(number === newest || number > 1 ? 'before' : 'now')
  const path = against === 'before' ? (number > 1 ? `/revisions/${number - 1}/diff/${number}` : null) : `/revisions/${newest}/diff/${number}`
  const diff = useQuery<Difference[]>(path, 60_000)
  const [asking, setAsking] = useState(false), [fault, setFault] = useState<Refusal | null>(null), [busy, setBusy] = useState(false)
  const rollBack = async () => {
    setBusy(true); setFault(null)
    try { await call('POST', `/revisions/${number}/rollback`, { ifMatch: `"${newest}"` }); onClose() } catch (why) { setFault(why as Refusal); setBusy(false) }
  }
  return (
    <Dialog title={`Revision ${number}`} onClose={onClose} wide>
      <div class="row" role="group" aria-label="Compare">
        {number > 1 && <button type="button" aria-pressed={against === 'before'} onClick={() => setAgainst('before')}>What it changed</button>}
        {number !== newest && <button type="button" aria-pressed={against === 'now'} onClick={() => setAgainst('now')}>What rolling back would change</button>}
      </div>
      {path === null ? <Empty title="The first revision" /> : <Answered of={diff} empty={data => data.length === 0 ? <Empty title="No difference" /> : null}>
        {data => <Table caption="Differences" head={['Where', 'From', 'To']} rows={data.map(d => [<code>{d.path}</code>, d.from == null ? <span class="note">not there</span> : <code class="minus">{shown(d.from)}</code>, d.to == null ? <span class="note">gone</span> : <code class="plus">{shown(d.to)}</code>])} />}
      </Answered>}
      {fault && <div class="state fault" role="alert"><strong>{fault.title}</strong><p>{fault.status === 412 ? 'Somebody published a newer revision meanwhile; look at it first.' : fault.detail}</p>{fault.errors.length > 0 && <ul>{fault.errors.map((f, n) => <li key={n}><code>{f.path}</code> {f.message}</li>)}</ul>}</div>}
      {mayEdit && number !== newest && <footer class="row">{asking
        ? <><span>Bring revision {number} into force again, as a new revision?</span><button type="button" class="primary" disabled={busy} onClick={() => void rollBack()}>Roll back</button><button type="button" onClick={() => setAsking(false)}>No</button></>
        : <button type="button" onClick={() => { setAgainst('now'); setAsking(true) }}>Roll back to it …</button>}</footer>}
    </Dialog>
  )
}

const shown = (value: unknown) => typeof value === 'string' ? value : JSON.stringify(value)
