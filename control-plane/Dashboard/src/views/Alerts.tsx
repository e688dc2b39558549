// What rules say, what is kept quiet, and what webhooks were told.
import { useState } from 'preact/hooks'
import { call, query, type Alert, type AlertRule, type Delivery, type Silence } from '../api'
import { linkTo, useMay, useQuery } from '../hooks'
import { ago, lasted, moment, words } from '../format'
import { Act, Answered, Badge, Choice, Dialog, Empty, Page, Panel, Select, Table, When } from '../ui'

const about = (of: { pool?: string; instance?: string; client?: string }) =>
  [of.pool && `pool ${of.pool}`, of.instance && `instance ${of.instance}`, of.client && `client ${of.client}`].filter(Boolean).join(', ') || 'everything'

export function Alerts() {
  const [state, setState] = useState<'open' | 'all'>('open')
  const alerts = useQuery<Alert[]>('/alerts' + query({ state }), 5_000), rules = useQuery<AlertRule[]>('/alerts/rules', 60_000)
  const silences = useQuery<Silence[]>('/silences', 15_000), deliveries = useQuery<Delivery[]>('/webhooks/deliveries' + query({ limit: 20 }), 15_000)
  const mayAct = useMay('operator')
  const [quiet, setQuiet] = useState<Partial<Silence> | null>(null)
  return (
    <Page title="Alerts" tools={<Choice<'open' | 'all'> label="Which" value={state} options={[['open', 'Open'], ['all', 'All']]} onChange={setState} />}>
      <Panel title="Alerts">
        <Answered of={alerts} empty={list => list.length === 0 ? <Empty title={state === 'open' ? 'No alert is open' : 'No alert yet'}>{rules.data && `${rules.data.length} rules watch.`}</Empty> : null}>
          {list => <Table caption="Alerts" head={['Rule', 'State', 'About', 'Now', 'Condition', 'For', '']} rows={list.map(a => [
            <b>{a.rule}</b>, <><Badge tone={a.state === 'firing' ? 'bad' : a.state === 'pending' ? 'warn' : 'off'}>{a.state}</Badge>{a.silenced && <> <Badge tone="info">silenced</Badge></>}</>,
            a.instance ? <a href={linkTo('fleet', { instance: a.instance })}>{about(a)}</a> : about(a), a.shown ?? '–', a.condition ?? '–', <When at={a.since}>{lasted(a.since, a.resolved_at)}</When>,
            mayAct && a.state !== 'resolved' && !a.silenced && <button type="button" class="plain" onClick={() => setQuiet({ rule: a.rule, pool: a.pool, instance: a.instance })}>Silence …</button>,
          ])} />}
        </Answered>
      </Panel>
      <Panel title="Silences" tools={mayAct && <button type="button" onClick={() => setQuiet({})}>Add a silence</button>}>
        <Answered of={silences} empty={list => list.length === 0 ? <Empty title="Nothing is kept quiet" /> : null}>
          {list => <Table caption="Silences" head={['About', 'Until', 'Reason', 'By', '']} rows={list.map(s => [
            [s.rule && `rule ${s.rule}`, (s.pool || s.instance || !s.rule) && about(s)].filter(Boolean).join(', '), <When at={s.until}>{moment(s.until)}</When>, <span class="words">{s.reason}</span>, s.created_by,
            mayAct && <Act kind="plain" does={async () => { await call('DELETE', `/silences/${s.id}`); await silences.refresh() }}>End it</Act>,
          ])} />}
        </Answered>
      </Panel>
      <Panel title="Rules" note={rules.data?.[0]?.is_default ? 'the built-in ones: alerts: in the configuration replaces them' : undefined}>
        <Answered of={rules} empty={list => list.length === 0 ? <Empty title="No rule" /> : null}>
          {list => <Table caption="Rules" head={['Rule', 'Condition', 'For', 'About']} rows={list.map(r => [<b>{r.name}</b>, r.condition, r.for, about(r)])} />}
        </Answered>
      </Panel>
      <Panel title="Told to webhooks">
        <Answered of={deliveries} empty={list => list.length === 0 ? <Empty title="Nothing was told yet">Webhooks are set with webhooks: in the configuration.</Empty> : null}>
          {list => <Table caption="Deliveries" head={['Webhook', 'State', 'Tries', 'When', 'Answer']} numeric={[2]} rows={list.map(d => [
            <b>{d.webhook}</b>, <Badge tone={d.state === 'sent' ? 'ok' : d.state === 'pending' ? 'warn' : 'bad'}>{words(d.state)}</Badge>, d.attempts, <When at={d.created_at}>{ago(d.created_at)}</When>, <span class="words">{d.status ?? ''} {d.words ?? ''}</span>,
          ])} />}
        </Answered>
      </Panel>
      {quiet && <SilenceDialog of={quiet} rules={rules.data ?? []} onClose={() => { setQuiet(null); void silences.refresh(); void alerts.refresh() }} />}
    </Page>
  )
}

const spans = [['1', '1 hour'], ['4', '4 hours'], ['24', '1 day'], ['168', '1 week']] as const

function SilenceDialog({ of, rules, onClose }: { of: Partial<Silence>; rules: AlertRule[]; onClose: () => void }) {
  const [rule, setRule] = useState(of.rule ?? ''), [pool, setPool] = useState(of.pool ?? ''), [instance, setInstance] = useState(of.instance ?? ''), [hours, setHours] = useState('1'), [reason, setReason] = useState('')
  const save = async () => {
    const until = new Date(Date.now() + Number(hours) * 3_600_000).toISOString()
    await call('POST', '/silences', { body: { until, reason: reason.trim(), ...(rule && { rule }), ...(pool.trim() && { pool: pool.trim() }), ...(instance.trim() && { instance: instance.trim() }) } })
    onClose()
  }
  return (
    <Dialog title="A silence" onClose={onClose}>
      <p class="note">Alerts that match are judged and listed all the same; nobody is told of them.</p>
      <div class="form">
        <Select label="Rule" value={rule} options={[['', 'every rule'], ...rules.map(r => [r.name, r.name] as const)]} onChange={setRule} />
        <label class="field"><span>Pool</span><input value={pool} placeholder="every pool" onInput={event => setPool(event.currentTarget.value)} /></label>
        <label class="field"><span>Instance</span><input value={instance} placeholder="every instance" onInput={event => setInstance(event.currentTarget.value)} /></label>
        <Select label="For" value={hours} options={spans} onChange={setHours} />
        <label class="field"><span>Reason</span><input value={reason} maxLength={1000} onInput={event => setReason(event.currentTarget.value)} /></label>
        <footer class="row"><Act kind="primary" disabled={reason.trim() === ''} does={save}>Keep quiet</Act><button type="button" onClick={onClose}>Cancel</button></footer>
      </div>
    </Dialog>
  )
}
