// What it costs: now, by whom, against budgets; and what the redundancy was worth.
import { useMemo, useState } from 'preact/hooks'
import { query, type Budget, type Cost, type Roi } from '../api'
import { useMoving, useWindow } from '../hooks'
import { TimeChart } from '../charts/TimeChart'
import { count, money, share, steps, words } from '../format'
import { Answered, Choice, Empty, Page, Panel, Stat, Table, useRange } from '../ui'

const sides = [['instance', 'Instances'], ['client', 'Clients'], ['model', 'Models'], ['pool', 'Pools'], ['traffic', 'Traffic'], ['waste', 'Waste']] as const
type Side = typeof sides[number][0]
const wasteNames: Record<string, string> = { '': 'used', failed: 'failed attempts', cut: 'cut streams', gone: 'client left' }
const named = (side: Side, name: string) => side === 'waste' ? wasteNames[name] ?? name : name === '' ? (side === 'client' ? 'anonymous' : '–') : name

export function CostView() {
  const [range, chooser] = useRange()
  const window = useWindow(range)
  const [by, setBy] = useState<Side>('instance')
  const cost = useMoving<Cost>('/telemetry/cost' + query({ ...window, by }))
  const roi = useMoving<Roi>('/telemetry/roi' + query({ from: window.from, to: window.to }))
  return (
    <Page title="Cost" lead="As the providers will bill it" tools={chooser}>
      <Answered of={cost}>{data => <Totals cost={data} />}</Answered>
      <Panel title="Burn" note="per step" tools={<Choice<Side> label="By" value={by} options={sides} onChange={setBy} />}>
        <Answered of={cost} empty={data => data.rows.length === 0 ? <Empty title="Nothing was spent in this time">Costs come from tokens and the prices of instances: set price: in the configuration.</Empty> : null}>
          {data => <Burn cost={data} by={by} />}
        </Answered>
      </Panel>
      {cost.data && cost.data.budgets.length > 0 && <Panel title="Budgets"><Budgets budgets={cost.data.budgets} /></Panel>}
      <Panel title="Was the redundancy worth it?">
        <Answered of={roi}>{data => <Worth roi={data} />}</Answered>
      </Panel>
    </Page>
  )
}

function Totals({ cost }: { cost: Cost }) {
  const sums = new Map<string, { total: number; hour: number; month: number; estimated: number }>()
  for (const row of cost.rows) {
    const sum = sums.get(row.currency) ?? { total: 0, hour: 0, month: 0, estimated: 0 }
    sum.total += Number(row.total); sum.hour += Number(row.per_hour); sum.month += Number(row.projected_month); sum.estimated += Number(row.estimated)
    sums.set(row.currency, sum)
  }
  return <>{[...sums].map(([currency, sum]) => (
    <div class="stats" key={currency}>
      <Stat label="In this time" value={<data value={sum.total}>{money(sum.total, currency)}</data>} />
      <Stat label="Per hour" value={money(sum.hour, currency)} />
      <Stat label="A month at this pace" value={money(sum.month, currency)} />
      <Stat label="Of it estimated" value={money(sum.estimated, currency)} title="Where a provider told no usage" />
    </div>
  ))}</>
}

function Burn({ cost, by }: { cost: Cost; by: Side }) {
  const shown = useMemo(() => {
    const rows = [...cost.rows].sort((a, b) => Number(b.total) - Number(a.total)).slice(0, 8)
    const times = steps(cost), several = new Set(cost.rows.map(row => row.currency)).size > 1
    return {
      at: times,
      series: rows.map((row, i) => { const amounts = new Map(row.points.map(p => [Date.parse(p.at) / 1000, Number(p.amount)])); return { name: named(by, row.name) + (several ? ` (${row.currency})` : ''), color: `c${i}`, values: times.map(time => amounts.get(time) ?? 0) } }),
    }
  }, [cost, by])
  const most = Math.max(...cost.rows.map(row => Number(row.total)), 1e-12)
  return (
    <>
      <TimeChart label="Cost over time" id="cost" at={shown.at} series={shown.series} format={value => money(value)} stacked columnS={cost.step_s} height={230} />
      <Table caption="Cost in this time" head={[words(by), 'Share', 'Total', 'Per hour', 'Month at this pace', 'Estimated']} numeric={[2, 3, 4, 5]} rows={[...cost.rows].sort((a, b) => Number(b.total) - Number(a.total)).map((row, i) => [
        <><i class={`swatch bg-c${Math.min(i, 8)}`} />{named(by, row.name)}</>, <span class="meter small"><span class="meter-fill" style={{ width: `${Number(row.total) / most * 100}%` }} /></span>,
        <data value={Number(row.total)} data-cost={row.name}>{money(row.total, row.currency)}</data>, money(row.per_hour, row.currency), money(row.projected_month, row.currency), money(row.estimated, row.currency),
      ])} />
    </>
  )
}

function Budgets({ budgets }: { budgets: Budget[] }) {
  return (
    <ul class="budgets">{budgets.map(b => (
      <li key={b.client}>
        <span><b>{b.client}</b> <span class="note">per {b.per}</span></span>
        <span class="meter" role="meter" aria-label={`${b.client}: ${share(b.used_share)} of the budget`} aria-valuenow={Math.round(b.used_share * 100)} aria-valuemin={0} aria-valuemax={100}>
          <span class={`meter-fill ${b.used_share >= 1 ? 'full' : b.used_share >= 0.8 ? 'near' : ''}`} style={{ width: `${Math.min(1, b.used_share) * 100}%` }} /></span>
        <span class="number"><data value={Number(b.spent)} data-budget={b.client}>{money(b.spent)}</data> of {money(b.amount, b.currency)} ({share(b.used_share)})</span>
      </li>
    ))}</ul>
  )
}

function Worth({ roi }: { roi: Roi }) {
  const price = roi.spent
  return (
    <div class="worth" data-chart="roi">
      <div class="stats">
        <Stat label="Outage prevented" value={<data value={roi.outage_prevented_minutes}>{count(roi.outage_prevented_minutes)} min</data>} />
        <Stat label="Revenue per hour" value={roi.revenue_per_hour == null ? 'not set' : money(roi.revenue_per_hour, roi.currency)} title="gateway.revenue_per_hour in the configuration" />
        <Stat label="Saved" value={roi.saved == null ? '–' : <data value={Number(roi.saved)}>{money(roi.saved, roi.currency)}</data>} />
        <Stat label="Net" value={roi.net == null ? '–' : <data value={Number(roi.net)}>{money(roi.net, roi.currency)}</data>} tone={roi.net != null && Number(roi.net) < 0 ? 'warn' : ''} />
      </div>
      {price.length > 0 && <Table caption="The price of resilience" head={['Spent', 'Redundancy', 'Failed attempts', 'Cut streams', 'Probes', 'Ghosts']} numeric={[0, 1, 2, 3, 4, 5]}
        rows={price.map(p => [money(p.total, p.currency), money(p.redundancy), money(p.failed), money(p.cut), money(p.probes), money(p.ghosts)])} />}
      {(roi.unconverted ?? []).length > 0 && <p class="warn">Not in it, for want of an exchange rate: {roi.unconverted!.join(', ')}. Set gateway.exchange_rates.</p>}
      <p class="note">{roi.method}</p>
    </div>
  )
}
