// What happened, why, and what it did to clients.
import { useState } from 'preact/hooks'
import { call, query, type Incident } from '../api'
import { linkTo, useMay, useQuery, type Route } from '../hooks'
import { ago, count, lasted, moment, money, utc, words } from '../format'
import { Act, Answered, Badge, Choice, Dialog, Empty, Page, Panel, Table, When } from '../ui'

const impactOf = (i: Incident) => i.impact ?? i

export function Incidents({ route }: { route: Route }) {
  const [open, setOpen] = useState<'' | 'true' | 'false'>(route.args.get('open') === 'true' ? 'true' : '')
  const [kind, setKind] = useState(route.args.get('kind') ?? ''), [subject, setSubject] = useState(route.args.get('subject') ?? '')
  const [pages, setPages] = useState(1)
  const list = useQuery<Incident[]>('/incidents' + query({ open, kind: kind.trim(), subject: subject.trim(), limit: Math.min(500, 50 * pages) }), 5_000)
  const picked = route.args.get('id')
  const pick = (id: number | null) => { location.hash = linkTo('incidents', id === null ? {} : { id }) }
  return (
    <Page title="Incidents" lead="Every change of state, with its cause" tools={<a href={linkTo('reports')}>As CSV</a>}>
      <div class="filters">
        <Choice<'' | 'true' | 'false'> label="Which" value={open} options={[['', 'All'], ['true', 'Open'], ['false', 'Ended']]} onChange={setOpen} />
        <label class="field inline"><span>Kind</span><input value={kind} placeholder="breaker, probe …" onInput={event => setKind(event.currentTarget.value)} /></label>
        <label class="field inline"><span>Subject</span><input value={subject} placeholder="instance or node" onInput={event => setSubject(event.currentTarget.value)} /></label>
      </div>
      <Panel>
        <Answered of={list} empty={data => data.length === 0 ? <Empty title={open === 'true' ? 'Nothing is wrong right now' : 'No incident'}>{kind || subject ? 'Nothing matches the filter.' : 'Should an instance fail, it is told here within seconds.'}</Empty> : null}>
          {data => <>
            <Table caption="Incidents" head={['#', 'What', 'Subject', 'Cause', 'Since', 'Lasted', 'Affected', 'Acknowledged']} numeric={[6]} rows={data.map(i => [
              <a href={linkTo('incidents', { id: i.id })} data-incident={i.id}>{i.id}</a>, <><Badge tone={i.open ? 'bad' : 'off'}>{i.open ? 'open' : 'ended'}</Badge> {words(i.kind)}</>,
              <><b>{i.subject}</b>{i.node && <span class="note"> at {i.node}</span>}</>, words(i.cause ?? '–'), <When at={i.since}>{moment(i.since)}</When>, lasted(i.since, i.until),
              count(impactOf(i).requests_affected), [i.acknowledged_by, i.comment_count > 0 && `${i.comment_count} ${i.comment_count === 1 ? 'comment' : 'comments'}`].filter(Boolean).join(', ') || '–',
            ])} />
            {data.length >= 50 * pages && pages < 10 && <button type="button" onClick={() => setPages(pages + 1)}>Show more</button>}
          </>}
        </Answered>
      </Panel>
      {picked && /^\d+$/.test(picked) && <IncidentDialog id={Number(picked)} onClose={() => { pick(null); void list.refresh() }} />}
    </Page>
  )
}

export function IncidentDialog({ id, onClose }: { id: number; onClose: () => void }) {
  const incident = useQuery<Incident>(`/incidents/${id}`, 5_000)
  const mayAct = useMay('operator')
  const [text, setText] = useState('')
  const act = async (path: string, body: unknown) => { await call('POST', `/incidents/${id}/${path}`, { body }); await incident.refresh() }
  return (
    <Dialog title={`Incident ${id}`} onClose={onClose} wide>
      <Answered of={incident}>{i => <>
        <p><Badge tone={i.open ? 'bad' : 'off'}>{i.open ? 'open' : 'ended'}</Badge> <b>{words(i.kind)}</b> of <b>{i.subject}</b>{i.node && ` at ${i.node}`}{i.cause && <> because of <b>{words(i.cause)}</b></>}; since <When at={i.since}>{moment(i.since)}</When>, {i.open ? 'for' : 'lasted'} {lasted(i.since, i.until)}.</p>
        <dl class="facts">
          <dt>Requests affected</dt><dd>{count(impactOf(i).requests_affected)}</dd><dt>of them degraded</dt><dd>{count(impactOf(i).requests_degraded)}</dd><dt>of them lost</dt><dd>{count(impactOf(i).requests_lost)}</dd>
          <dt>Cost</dt><dd>{money(impactOf(i).cost)}</dd><dt>Events</dt><dd>{count(i.events)}, the last {ago(i.last_event_at)}</dd>
          {i.revision !== undefined && <><dt>Revision</dt><dd><a href={linkTo('revisions', { number: i.revision })}>{i.revision}</a></dd></>}
        </dl>
        <details><summary>Evidence</summary><pre>{JSON.stringify(i.evidence, null, 2)}</pre></details>
        <p class="row">{i.acknowledged_by ? <>Acknowledged by <b>{i.acknowledged_by}</b> {i.acknowledged_at && ago(i.acknowledged_at)}.</> : mayAct ? <Act kind="primary" does={() => act('acknowledge', {})}>Acknowledge</Act> : 'Nobody has acknowledged it yet.'}
          <a href={linkTo('traces', { instance: i.subject })}>Requests</a></p>
        <h3>Comments</h3>
        {(i.comments ?? []).length === 0 && <p class="note">None yet.</p>}
        <ul class="plain-list">{(i.comments ?? []).map((c, n) => <li key={n}><b>{c.author}</b> <span class="note" title={utc(c.at)}>{moment(c.at)}</span><p class="words">{c.text}</p></li>)}</ul>
        {mayAct && <div class="row"><label class="field grow"><span>Comment</span><textarea rows={2} maxLength={4000} value={text} onInput={event => setText(event.currentTarget.value)} /></label>
          <Act disabled={text.trim() === ''} does={async () => { await act('comments', { text: text.trim() }); setText('') }}>Add</Act></div>}
      </>}</Answered>
    </Dialog>
  )
}
