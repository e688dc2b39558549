// Why did this request go there? One record per request, with every attempt.
import { useState } from 'preact/hooks'
import { query, type Trace } from '../api'
import { linkTo, useQuery, type Route } from '../hooks'
import { clock, millis, moment, utc, words } from '../format'
import { outcomeColor, outcomes } from '../palette'
import { Answered, Badge, Dialog, Empty, Page, Panel, Select, Table } from '../ui'

// The endpoint may answer with the list or with {traces: [...]}.
const listOf = (data: Trace[] | { traces: Trace[] }) => Array.isArray(data) ? data : data.traces

export function Traces({ route }: { route: Route }) {
  const [outcome, setOutcome] = useState(route.args.get('outcome') ?? ''), [instance, setInstance] = useState(route.args.get('instance') ?? ''), [pool, setPool] = useState(''), [client, setClient] = useState('')
  const [wanted, setWanted] = useState('')
  const list = useQuery<Trace[] | { traces: Trace[] }>('/traces' + query({ outcome, instance: instance.trim(), pool: pool.trim(), client: client.trim(), limit: 100 }), 5_000)
  const picked = route.args.get('id')
  return (
    <Page title="Requests" lead="Which way each request took, and why">
      <form class="filters" onSubmit={event => { event.preventDefault(); if (wanted.trim()) location.hash = linkTo('traces', { id: wanted.trim() }) }}>
        <label class="field inline grow"><span>Request id</span><input value={wanted} placeholder="the x-request-id of an answer" onInput={event => setWanted(event.currentTarget.value)} /></label><button>Find</button>
      </form>
      <div class="filters">
        <Select label="Outcome" value={outcome} options={[['', 'all'], ...outcomes.map(o => [o, words(o)] as const)]} onChange={setOutcome} />
        <label class="field inline"><span>Instance</span><input value={instance} onInput={event => setInstance(event.currentTarget.value)} /></label>
        <label class="field inline"><span>Pool</span><input value={pool} onInput={event => setPool(event.currentTarget.value)} /></label>
        <label class="field inline"><span>Client</span><input value={client} onInput={event => setClient(event.currentTarget.value)} /></label>
      </div>
      <Panel note="Those that failed, were retried or degraded are kept; the others are sampled when they are many.">
        <Answered of={list} empty={data => listOf(data).length === 0 ? <Empty title="No request">Nothing matches, or nothing was asked yet.</Empty> : null}>
          {data => <Table caption="Requests" head={['Time', 'Request', 'Client', 'Pool', 'Outcome', 'Way', 'Took']} numeric={[6]} rows={listOf(data).map(t => [
            <time dateTime={t.at} title={utc(t.at)}>{clock(t.at)}</time>, <a href={linkTo('traces', { id: t.request_id })}><code>{t.request_id.slice(0, 12)}</code></a>, t.client || '–', t.pool,
            <><i class={`swatch bg-${outcomeColor(t.outcome)}`} />{words(t.outcome)}{t.degraded && <> <Badge tone="warn">degraded</Badge></>}</>,
            t.attempts.map(a => a.instance).join(' → ') || '–', millis(t.duration_ms),
          ])} />}
        </Answered>
      </Panel>
      {picked && <TraceDialog id={picked} onClose={() => { location.hash = linkTo('traces') }} />}
    </Page>
  )
}

function TraceDialog({ id, onClose }: { id: string; onClose: () => void }) {
  const trace = useQuery<Trace>(`/traces/${encodeURIComponent(id)}`, 60_000)
  return (
    <Dialog title="Request" onClose={onClose} wide>
      <p><code>{id}</code></p>
      <Answered of={trace}>{t => {
        const whole = Math.max(1, t.duration_ms)
        return <>
          <p>{moment(t.at)}: {t.client ? <>client <b>{t.client}</b></> : 'a client without a name'} asked pool <b>{t.pool}</b>{t.model && <> for <code>{t.model}</code></>} ({t.mode ?? t.kind}). It got <b>{t.status} {words(t.outcome)}</b> after {millis(t.duration_ms)}{(t.queued_ms ?? 0) > 0 && <>, of which {millis(t.queued_ms)} in the queue</>}, {t.tier === undefined ? 'from nobody' : t.tier === 0 ? 'a stale answer' : `from tier ${t.tier}`}{t.degraded && ' (degraded)'}{t.reason && <>; reason: {words(t.reason)}</>}.</p>
          <ol class="attempts">{t.attempts.map((a, n) => (
            <li key={n}>
              <span><b>{a.instance}</b> <span class="note">tier {a.tier}{a.of !== undefined && `, chosen among ${a.of}`}{a.live_weight !== undefined && `, weight ${a.live_weight}`}</span></span>
              <span class="track"><span class={`bg-${outcomeColor(a.outcome)}`} style={{ left: `${Math.min(99, a.began_ms / whole * 100)}%`, width: `${Math.max(0.8, Math.min(100, a.duration_ms / whole * 100))}%` }} /></span>
              <span>{words(a.outcome)}, {millis(a.duration_ms)}{a.first_token_ms != null && `, first token after ${millis(a.first_token_ms)}`}</span>
            </li>
          ))}</ol>
          {t.revision !== undefined && <p class="note">Under revision <a href={linkTo('revisions', { number: t.revision })}>{t.revision}</a>.</p>}
        </>
      }}</Answered>
    </Dialog>
  )
}
