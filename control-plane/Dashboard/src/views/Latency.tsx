// How long calls take: their distribution, and P50, P90 and P99 as lines of their own.
import { useMemo, useState } from 'preact/hooks'
import { query, type Latency, type LatencySeries } from '../api'
import { useMoving, useWindow } from '../hooks'
import { Histogram } from '../charts/Columns'
import { TimeChart } from '../charts/TimeChart'
import { count, millis, steps } from '../format'
import { Answered, Choice, Empty, Page, Panel, Select, useRange } from '../ui'

const measures = [['first_token', 'First token'], ['total', 'Total'], ['per_output_token', 'Per token']] as const
type Measure = typeof measures[number][0]

export function LatencyView() {
  const [range, chooser] = useRange()
  const window = useWindow(range)
  const [measure, setMeasure] = useState<Measure>('total'), [by, setBy] = useState<'pool' | 'instance'>('instance'), [mode, setMode] = useState(''), [one, setOne] = useState('')
  const narrowed = one ? { [by]: one } : {}
  const all = useMoving<Latency>('/telemetry/latency' + query({ ...window, measure, by, mode }))
  const answer = useMoving<Latency>('/telemetry/latency' + query({ ...window, measure, by, mode, ...narrowed }))
  const names = all.data?.series.map(s => s.name) ?? []
  const nothing = (data: Latency) => data.series.every(s => s.points.every(p => p.count === 0))
    ? <Empty title="Nothing was measured in this time">Send a request through the gateway, or choose a longer time.</Empty> : null
  return (
    <Page title="Latency" lead="As clients feel it, exact to the bucket" tools={chooser}>
      <div class="filters">
        <Choice<Measure> label="Measure" value={measure} options={measures} onChange={setMeasure} />
        <Choice<'pool' | 'instance'> label="By" value={by} options={[['instance', 'Instances'], ['pool', 'Pools']]} onChange={value => { setBy(value); setOne('') }} />
        <Choice<string> label="Kind of answer" value={mode} options={[['', 'All'], ['stream', 'Streams'], ['json', 'JSON']]} onChange={setMode} />
        <Select label={by === 'pool' ? 'Pool' : 'Instance'} value={one} options={[['', 'all'], ...names.map(name => [name, name] as const)]} onChange={setOne} />
      </div>
      <Panel title="Distribution" note={answer.data ? `${count(answer.data.distribution.reduce((sum, b) => sum + b.count, 0))} calls` : ''}>
        <Answered of={answer} empty={nothing}>{data => <Histogram label="Latency distribution" id="distribution" buckets={data.distribution} />}</Answered>
      </Panel>
      <Answered of={answer} empty={data => nothing(data) && <Panel title="Over time">{nothing(data)}</Panel>}>
        {data => <Lines data={data} />}
      </Answered>
    </Page>
  )
}

function Lines({ data }: { data: Latency }) {
  const at = useMemo(() => steps(data), [data])
  return <div class="grid">{data.series.filter(s => s.points.some(p => p.count > 0)).map(s => <Panel key={s.name} title={s.name} note={`${count(s.points.reduce((sum, p) => sum + p.count, 0))} calls`}><Percentiles series={s} at={at} /></Panel>)}</div>
}

function Percentiles({ series, at }: { series: LatencySeries; at: number[] }) {
  const lines = useMemo(() => {
    const known = new Map(series.points.map(p => [Date.parse(p.at) / 1000, p]))
    const line = (pick: (p: LatencySeries['points'][number]) => number | undefined) => at.map(time => { const p = known.get(time); return p && p.count > 0 ? pick(p) ?? null : null })
    return [
      { name: 'P50', color: 'p50', values: line(p => p.p50_ms) },
      { name: 'P90', color: 'p90', dash: [6, 3], values: line(p => p.p90_ms) },
      { name: 'P99', color: 'p99', values: line(p => p.p99_ms) },
    ]
  }, [series, at])
  return <TimeChart label={`Latency of ${series.name}`} id="latency" at={at} series={lines} format={millis} height={190} />
}
