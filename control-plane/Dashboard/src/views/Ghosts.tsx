// Ghosts: tagged requests that look like real ones, and what they say of each instance.
import { useState } from 'preact/hooks'
import { call } from '../api'
import { linkTo, useMay, useQuery } from '../hooks'
import { ago, clock, count, millis, seconds, share, words } from '../format'
import { Act, Answered, Badge, Dialog, Empty, Page, Panel, Select, Table, When } from '../ui'

interface Result {
  id: number; at: string; instance: string; pool: string; model: string; prompt: string; trigger: string; stream: boolean; verdict: string
  outcome?: string; faults: string[]; words?: string; first_token_ms?: number; duration_ms?: number; tokens?: number
}
interface State { instance: string; pool?: string; status: string; weight_factor: number; verdicts: string; since: string; cause?: string; words?: string; ghosts: number; next_at: string }
interface Overview {
  instances: State[]; budgets: { pool: string; tokens: number; max_tokens_per_day: number; ghosts: number; skipped: number }[]
  prompts: { pool: string; file: string; prompts: number; faults: string[] }[]; results: Result[]
}

const toneOf = (status: string) => status === 'ok' ? 'ok' : status === 'grey' ? 'bad' : status === 'unknown' ? 'off' : 'warn'

export function Ghosts() {
  const ghosts = useQuery<Overview>('/ghosts', 5_000)
  const mayAct = useMay('operator'), [asking, setAsking] = useState(false)
  return (
    <Page title="Ghosts" lead="Tagged requests that look like real ones: they find what probes cannot see" tools={mayAct && <button type="button" onClick={() => setAsking(true)}>Send some now</button>}>
      <Answered of={ghosts}>{data => <>
        <Panel title="Instances">
          {data.instances.length === 0 ? <Empty title="No instance gets ghosts yet">Those of a pool do; ghost: in its configuration says how many a day.</Empty>
            : <Table caption="Instances by their ghosts" head={['Instance', 'Status', 'Weight kept', 'Newest', 'Since', 'Why', 'Next']} numeric={[2]} rows={data.instances.map(s => [
              <a href={linkTo('fleet', { instance: s.instance })}><b>{s.instance}</b></a>, <Badge tone={toneOf(s.status)}>{s.status}</Badge>, share(s.weight_factor),
              <span class="verdicts" role="img" aria-label={`${[...s.verdicts].filter(v => v === 'g').length} of ${s.verdicts.length} good`}>{[...s.verdicts].slice(-20).map((v, n) => <i key={n} class={v === 'g' ? 'good' : 'bad'}>{v === 'g' ? '·' : '×'}</i>)}</span>,
              <When at={s.since}>{ago(s.since)}</When>, <span class="words">{s.cause ? words(s.cause) : '–'}</span>, <When at={s.next_at}>in {seconds((Date.parse(s.next_at) - Date.now()) / 1000)}</When>,
            ])} />}
        </Panel>
        <Panel title="Tokens today"><ul class="budgets">{data.budgets.map(b => (
          <li key={b.pool}><span><b>{b.pool}</b> <span class="note">{count(b.ghosts)} ghosts{b.skipped > 0 && `, ${count(b.skipped)} not sent for want of tokens`}</span></span>
            <span class="meter" role="meter" aria-label={`${b.pool}: ghost tokens used today`} aria-valuenow={b.tokens} aria-valuemin={0} aria-valuemax={Math.max(1, b.max_tokens_per_day)}><span class={`meter-fill ${b.tokens >= b.max_tokens_per_day ? 'full' : ''}`} style={{ width: `${Math.min(1, b.tokens / Math.max(1, b.max_tokens_per_day)) * 100}%` }} /></span>
            <span class="number">{count(b.tokens)} of {count(b.max_tokens_per_day)}</span></li>))}</ul>
          {data.prompts.some(p => p.faults.length > 0) && <div class="state fault" role="alert"><strong>Prompt files with faults</strong><ul>{data.prompts.flatMap(p => p.faults.map((f, n) => <li key={p.pool + n}><code>{p.file}</code> {f}</li>))}</ul></div>}
        </Panel>
        <Panel title="Results">{data.results.length === 0 ? <Empty title="No ghost was sent yet">Send some now, or wait for the first of the day.</Empty> : <Results results={data.results} />}</Panel>
      </>}</Answered>
      {asking && <RunDialog instances={ghosts.data?.instances.map(s => s.instance) ?? []} onClose={() => { setAsking(false); void ghosts.refresh() }} />}
    </Page>
  )
}

const Results = ({ results }: { results: Result[] }) => <Table caption="Results of ghosts" head={['Time', 'Instance', 'Verdict', 'Why', 'First token', 'Prompt', 'Sent by']} numeric={[4]} rows={results.map(r => [
  <When at={r.at}>{clock(r.at)}</When>, <b>{r.instance}</b>, <Badge tone={r.verdict === 'good' ? 'ok' : r.verdict === 'bad' ? 'bad' : 'off'}>{r.verdict}</Badge>, <span class="words">{r.faults.map(words).join(', ') || r.words || '–'}</span>, millis(r.first_token_ms), r.prompt, r.trigger,
])} />

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
      {done && <><p role="status">{done.sent} sent{done.skipped > 0 && `, ${done.skipped} not, for want of tokens or of a node`}.</p>{done.results.length > 0 && <Results results={done.results} />}</>}
    </Dialog>
  )
}
