// What failed when, stacked by outcome.
import { useMemo, useState } from 'preact/hooks'
import { query, type Errors, type Instance, type Pool } from '../api'
import { linkTo, useMoving, useQuery, useWindow } from '../hooks'
import { TimeChart } from '../charts/TimeChart'
import { outcomeColor, outcomes } from '../palette'
import { count, share, words } from '../format'
import { Answered, Choice, Empty, Page, Panel, Select, Table, useRange } from '../ui'

export function ErrorsView() {
  const [range, chooser] = useRange()
  const window = useWindow(range)
  const [level, setLevel] = useState<'attempt' | 'request'>('attempt'), [pool, setPool] = useState(''), [instance, setInstance] = useState(''), [good, setGood] = useState<'no' | 'yes'>('no')
  const errors = useMoving<Errors>('/telemetry/errors' + query({ ...window, pool, instance: level === 'attempt' ? instance : '', level: level === 'request' ? level : '' }))
  const pools = useQuery<Pool[]>('/pools', 60_000), instances = useQuery<Instance[]>('/instances', 60_000)
  return (
    <Page title="Errors" lead="By outcome; rate limiting and server errors are never one colour" tools={chooser}>
      <div class="filters">
        <Choice<'attempt' | 'request'> label="Of" value={level} options={[['attempt', 'At instances'], ['request', 'For clients']]} onChange={setLevel} />
        <Select label="Pool" value={pool} options={[['', 'all'], ...(pools.data ?? []).map(p => [p.name, p.name] as const)]} onChange={setPool} />
        {level === 'attempt' && <Select label="Instance" value={instance} options={[['', 'all'], ...(instances.data ?? []).map(i => [i.name, i.name] as const)]} onChange={setInstance} />}
        <Choice<'no' | 'yes'> label="Successes" value={good} options={[['no', 'Errors only'], ['yes', 'With successes']]} onChange={setGood} />
      </div>
      <Panel title={level === 'request' ? 'What clients got' : 'What instances answered'} note="count per step">
        <Answered of={errors} empty={data => data.points.every(p => p.requests === 0) ? <Empty title="No traffic in this time">Choose a longer time, or send a request.</Empty> : null}>
          {data => <Timeline errors={data} withOk={good === 'yes'} />}
        </Answered>
      </Panel>
      {errors.data && <Sums errors={errors.data} />}
    </Page>
  )
}

function Timeline({ errors, withOk }: { errors: Errors; withOk: boolean }) {
  const shown = useMemo(() => {
    const seen = new Set(errors.points.flatMap(p => Object.keys(p.outcomes).filter(name => (p.outcomes[name] ?? 0) > 0)))
    const names = [...outcomes.filter(name => seen.has(name)), ...[...seen].filter(name => !(outcomes as readonly string[]).includes(name))].filter(name => withOk || name !== 'ok')
    return {
      at: errors.points.map(p => Date.parse(p.at) / 1000),
      series: names.map(name => ({ name: words(name), color: (outcomes as readonly string[]).includes(name) ? outcomeColor(name) : 'o-client-error', values: errors.points.map(p => p.outcomes[name] ?? 0) })),
    }
  }, [errors, withOk])
  if (shown.series.length === 0) return <Empty title="Nothing failed in this time">{count(errors.points.reduce((sum, p) => sum + p.requests, 0))} went well.</Empty>
  return <TimeChart label="Errors by outcome over time" id="errors" at={shown.at} series={shown.series} format={value => count(value)} stacked columnS={errors.step_s} height={300} />
}

function Sums({ errors }: { errors: Errors }) {
  const total = errors.points.reduce((sum, p) => sum + p.requests, 0), sums = new Map<string, number>()
  for (const p of errors.points) for (const [name, n] of Object.entries(p.outcomes)) sums.set(name, (sums.get(name) ?? 0) + n)
  const rows = [...sums].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1])
  if (rows.length === 0) return null
  return (
    <Panel title="Sums" note={`of ${count(total)}`}>
      <Table caption="Outcomes in this time" head={['Outcome', 'Count', 'Share', '']} numeric={[1, 2]} rows={rows.map(([name, n]) => [
        <><i class={`swatch bg-${outcomeColor(name)}`} />{words(name)}</>, <data value={n} data-outcome={name}>{count(n)}</data>, share(n / Math.max(1, total)),
        name === 'ok' ? '' : <a href={linkTo('traces', { outcome: name })} aria-label={`Requests with ${words(name)}`}>requests</a>,
      ])} />
    </Panel>
  )
}
