// Ghosts: tagged requests that look like real ones, what each instance made of them, and the clients' requests that serve as samples.
import { useState } from 'preact/hooks'
import { call, query } from '../api'
import { linkTo, useMay, useQuery, type Route } from '../hooks'
import { ago, clock, count, figure, millis, moment, seconds, share, words } from '../format'
import { Act, Answered, Badge, Dialog, Empty, Page, Panel, Select, Table, When } from '../ui'

interface Result {
  id: number; at: string; instance: string; pool: string; node?: string; model: string; prompt: string; trigger: string; stream: boolean; verdict: string
  outcome?: string; faults: string[]; words?: string; first_token_ms?: number; total_ms?: number; tokens_per_second?: number
  input_tokens: number; output_tokens: number; length: number; finish_reason?: string; held?: boolean
}
interface State { instance: string; pool?: string; status: string; weight_factor: number; verdicts: string; since: string; cause?: string; words?: string; ghosts: number; next_at: string }
interface Overview {
  instances: State[]; budgets: { pool: string; tokens: number; max_tokens_per_day: number; ghosts: number; skipped: number }[]
  prompts: { pool: string; file: string; prompts: number; faults: string[] }[]; results: Result[]
}
interface Message { role?: string; content?: unknown }
interface Sample { id: number; pool: string; at: string; body: { messages?: Message[] } & Record<string, unknown> }

const toneOf = (status: string) => status === 'ok' ? 'ok' : status === 'grey' ? 'bad' : status === 'unknown' ? 'off' : 'warn'
const verdictTone = (verdict: string) => verdict === 'good' ? 'ok' : verdict === 'bad' ? 'bad' : 'off'
const why = (r: Result) => r.faults.map(words).join(', ') || r.words || '–'
const textOf = (content: unknown) => typeof content === 'string' ? content : JSON.stringify(content)
const pageSize = 50

export function Ghosts({ route }: { route: Route }) {
  const mayAct = useMay('operator'), [asking, setAsking] = useState(false)
  const ghosts = useQuery<Overview>('/ghosts?limit=1', 5_000)
  const instance = route.args.get('instance') ?? '', verdict = route.args.get('verdict') ?? '', prompt = route.args.get('prompt') ?? ''
  const [many, setMany] = useState(pageSize)
  const found = useQuery<Overview>('/ghosts' + query({ instance, verdict, prompt, limit: many }), 5_000)
  const only = (filter: Record<string, string>) => { setMany(pageSize); location.hash = linkTo('ghosts', { instance, verdict, prompt, ...filter }) }
  return (
    <Page title="Ghosts" lead="Tagged requests that look like real ones: they find what probes cannot see" tools={mayAct && <button type="button" onClick={() => setAsking(true)}>Send some now</button>}>
      <Answered of={ghosts}>{data => <>
        <Panel title="Instances">
          {data.instances.length === 0 ? <Empty title="No instance gets ghosts yet">Those of a pool do; ghost: in its configuration says how many a day.</Empty>
            : <Table caption="Instances by their ghosts" head={['Instance', 'Status', 'Weight kept', 'Newest', 'Since', 'Why', 'Sent', 'Next']} numeric={[2, 6]} rows={data.instances.map(s => [
              <a href={linkTo('ghosts', { instance: s.instance })} data-ghosts-of={s.instance}><b>{s.instance}</b></a>, <Badge tone={toneOf(s.status)}>{s.status}</Badge>, share(s.weight_factor), <Verdicts of={s.verdicts} />,
              <When at={s.since}>{ago(s.since)}</When>, <span class="words">{s.cause ? words(s.cause) : '–'}</span>, count(s.ghosts), <When at={s.next_at}>in {seconds((Date.parse(s.next_at) - Date.now()) / 1000)}</When>,
            ])} />}
        </Panel>
        <Panel title="Tokens today"><ul class="budgets">{data.budgets.map(b => (
          <li key={b.pool}><span><b>{b.pool}</b> <span class="note">{count(b.ghosts)} ghosts{b.skipped > 0 && `, ${count(b.skipped)} not sent for want of tokens`}</span></span>
            <span class="meter" role="meter" aria-label={`${b.pool}: ghost tokens used today`} aria-valuenow={b.tokens} aria-valuemin={0} aria-valuemax={Math.max(1, b.max_tokens_per_day)}><span class={`meter-fill ${b.tokens >= b.max_tokens_per_day ? 'full' : ''}`} style={{ width: `${Math.min(1, b.tokens / Math.max(1, b.max_tokens_per_day)) * 100}%` }} /></span>
            <span class="number">{count(b.tokens)} of {count(b.max_tokens_per_day)}</span></li>))}</ul>
          {data.prompts.some(p => p.faults.length > 0) && <div class="state fault" role="alert"><strong>Prompt files with faults</strong><ul>{data.prompts.flatMap(p => p.faults.map((f, n) => <li key={p.pool + n}><code>{p.file}</code> {f}</li>))}</ul></div>}
        </Panel>
        <Panel title="Results" tools={<>
          <Select label="Instance" value={instance} options={[['', 'all'], ...data.instances.map(s => [s.instance, s.instance] as const)]} onChange={value => only({ instance: value })} />
          <Select label="Verdict" value={verdict} options={[['', 'all'], ['good', 'good'], ['bad', 'bad'], ['neutral', 'neutral']]} onChange={value => only({ verdict: value })} />
          {prompt && <button type="button" onClick={() => only({ prompt: '' })}>{prompt} ✕</button>}
        </>}>
          <Answered of={found} empty={list => list.results.length > 0 ? null : instance || verdict || prompt ? <Empty title="None of these">Nothing that is kept matches; results are kept for 7 days.</Empty> : <Empty title="No ghost was sent yet">Send some now, or wait for the first of the day.</Empty>}>
            {list => <>
              <Results results={list.results} />
              {list.results.length === many && many < 500 && <button type="button" onClick={() => setMany(Math.min(500, many + 100))}>Show more</button>}
            </>}
          </Answered>
        </Panel>
      </>}</Answered>
      {mayAct && <Samples />}
      {asking && <RunDialog instances={ghosts.data?.instances.map(s => s.instance) ?? []} onClose={() => { setAsking(false); void ghosts.refresh(); void found.refresh() }} />}
    </Page>
  )
}

const Verdicts = ({ of }: { of: string }) => <span class="verdicts" role="img" aria-label={`${[...of].filter(v => v === 'g').length} of ${of.length} good`}>{[...of].slice(-20).map((v, n) => <i key={n} class={v === 'g' ? 'good' : 'bad'}>{v === 'g' ? '·' : '×'}</i>)}</span>

/** One line each; what else is known of an answer is a click away. */
function Results({ results }: { results: Result[] }) {
  const [shown, setShown] = useState<Result | null>(null)
  return (
    <>
      <Table caption="Results of ghosts" head={['Time', 'Instance', 'Verdict', 'Why', 'First token', 'Answer', 'Prompt', 'Sent by', '']} numeric={[4, 5]} rows={results.map(r => [
        <When at={r.at}>{clock(r.at)}</When>, <b>{r.instance}</b>, <Badge tone={verdictTone(r.verdict)}>{r.verdict}</Badge>, <span class="words">{why(r)}</span>, millis(r.first_token_ms), answerOf(r), r.prompt, r.trigger,
        <button type="button" class="plain" aria-label={`Details of result ${r.id}`} onClick={() => setShown(r)}>Details</button>,
      ])} />
      {shown && <ResultDialog result={shown} onClose={() => setShown(null)} />}
    </>
  )
}

const answerOf = (r: Result) => r.length > 0 ? `${count(r.output_tokens)} tokens` : 'none'

/** The answer itself is not kept, what it was like is. */
function ResultDialog({ result: r, onClose }: { result: Result; onClose: () => void }) {
  return (
    <Dialog title={`Ghost ${r.id} to ${r.instance}`} onClose={onClose}>
      <p><Badge tone={verdictTone(r.verdict)}>{r.verdict}</Badge> {moment(r.at)}, {r.outcome ? words(r.outcome) : 'it did not get as far as the instance'}{r.faults.length > 0 && <>: <b>{r.faults.map(words).join(', ')}</b></>}.</p>
      {r.words && <pre class="words">{r.words}</pre>}
      <dl class="facts">
        <dt>Prompt</dt><dd><a href={linkTo('ghosts', { prompt: r.prompt })} onClick={onClose}>{r.prompt}</a></dd>
        <dt>Asked for</dt><dd>{r.model}, as {r.stream ? 'a stream' : 'JSON'}</dd><dt>By rules of pool</dt><dd>{r.pool}</dd><dt>Through node</dt><dd>{r.node ?? '–'}</dd>
        <dt>{r.stream ? 'First token' : 'Answered'} after</dt><dd>{millis(r.first_token_ms)}</dd><dt>Whole</dt><dd>{millis(r.total_ms)}</dd><dt>Tokens per second</dt><dd>{figure(r.tokens_per_second)}</dd>
        <dt>Tokens</dt><dd>{count(r.input_tokens)} in, {count(r.output_tokens)} out</dd><dt>Answer</dt><dd>{count(r.length)} characters{r.finish_reason && `, finish reason ${r.finish_reason}`}</dd>
        <dt>What was asked for</dt><dd>{r.held === undefined ? 'cannot be told' : r.held ? 'it was in the answer' : 'it was not in the answer'}</dd>
      </dl>
      <p class="note">Kept is what an answer was like, not the answer.</p>
    </Dialog>
  )
}

function Samples() {
  const samples = useQuery<Sample[]>('/ghosts/samples', 30_000)
  const [shown, setShown] = useState<Sample | null>(null)
  const remove = async (path: string) => { await call('DELETE', '/ghosts/samples' + path); await samples.refresh() }
  return (
    <Panel title="Samples" note="clients' requests, redacted, that are asked again" tools={(samples.data?.length ?? 0) > 0 && <Act kind="danger" does={() => remove('')}>Delete all</Act>}>
      <Answered of={samples} empty={list => list.length === 0 ? <Empty title="There is no sample">Nothing is sampled unless a pool says so: ghost: {'{'}sample: 0.01{'}'}.</Empty> : null}>
        {list => <Table caption="Samples" head={['Taken', 'Pool', 'Asks', '']} rows={list.map(s => [
          <When at={s.at}>{moment(s.at)}</When>, s.pool, <span class="words">{textOf(s.body.messages?.at(-1)?.content ?? '').slice(0, 120)}</span>,
          <span class="row tight"><button type="button" class="plain" aria-label={`Show sample ${s.id}`} onClick={() => setShown(s)}>Show</button><Act kind="plain" does={() => remove(`/${s.id}`)}>Delete</Act></span>,
        ])} />}
      </Answered>
      {shown && <SampleDialog sample={shown} onClose={() => setShown(null)} />}
    </Panel>
  )
}

/** What was asked, and how each instance did with it. */
function SampleDialog({ sample, onClose }: { sample: Sample; onClose: () => void }) {
  const name = `sample/${sample.id}`
  const asked = useQuery<Overview>('/ghosts' + query({ prompt: name, limit: 100 }), 10_000)
  const { messages, ...rest } = sample.body
  return (
    <Dialog title={`Sample ${sample.id} of ${sample.pool}`} onClose={onClose} wide>
      <ul class="plain-list">{(messages ?? []).map((m, n) => <li key={n}><span class="note">{m.role}</span><p class="words">{textOf(m.content)}</p></li>)}</ul>
      {Object.keys(rest).length > 0 && <details><summary>The rest of the request</summary><pre>{JSON.stringify(rest, null, 2)}</pre></details>}
      <h3>Answers</h3>
      <Answered of={asked} empty={data => data.results.length === 0 ? <Empty title="Not asked yet">Of a pool's samples one is picked at random each time.</Empty> : null}>
        {data => <ByInstance results={data.results} />}
      </Answered>
    </Dialog>
  )
}

function ByInstance({ results }: { results: Result[] }) {
  const of = new Map<string, Result[]>()
  for (const r of results) of.set(r.instance, [...of.get(r.instance) ?? [], r])
  return <Table caption="Answers by instance" head={['Instance', 'Verdicts', 'Newest', 'Why', 'First token', 'Answer']} numeric={[4, 5]} rows={[...of].map(([instance, list]) => [
    <b>{instance}</b>, `${list.filter(r => r.verdict === 'good').length} of ${list.length} good`, <Badge tone={verdictTone(list[0]!.verdict)}>{list[0]!.verdict}</Badge>, <span class="words">{why(list[0]!)}</span>, millis(list[0]!.first_token_ms), answerOf(list[0]!),
  ])} />
}

function RunDialog({ instances, onClose }: { instances: string[]; onClose: () => void }) {
  const [instance, setInstance] = useState(''), [many, setMany] = useState('1'), [done, setDone] = useState<{ sent: number; skipped: number; results: Result[] } | null>(null)
  const run = async () => setDone((await call<{ sent: number; skipped: number; results: Result[] }>('POST', '/ghosts/run', { body: { count: Number(many), ...(instance && { instance }) } })).data)
  return (
    <Dialog title="Send ghosts now" onClose={onClose} wide>
      <div class="form">
        <Select label="To" value={instance} options={[['', 'every instance'], ...instances.map(i => [i, i] as const)]} onChange={setInstance} />
        <Select label="Each" value={many} options={[['1', '1'], ['3', '3'], ['10', '10']]} onChange={setMany} />
        <footer class="row"><Act kind="primary" does={run}>Send</Act><button type="button" onClick={onClose}>Close</button></footer>
      </div>
      {done && <><p role="status">{done.sent} sent{done.skipped > 0 && `, ${done.skipped} not, for want of tokens or of a node`}.</p>{done.results.length > 0 && <ByInstance results={done.results} />}</>}
    </Dialog>
  )
}
