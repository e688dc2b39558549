// Lines or stacked columns over time, drawn by uPlot; legend, reading under the pointer and the numbers as a table are HTML.
import { useContext, useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { ThemeContext } from '../hooks'
import { moment } from '../format'
import { cssColor } from '../palette'
import { Numbers, Table } from '../ui'

export interface Series { name: string; color: string; dash?: number[]; values: (number | null)[] }

interface Props {
  /** What the picture shows; its accessible name. */
  label: string
  /** For tests and style: data-chart. */
  id: string
  /** Seconds since 1970, ascending. */
  at: number[]
  series: Series[]
  format: (value: number | null | undefined) => string
  stacked?: boolean
  height?: number
  /** Draws one column per step of so many seconds instead of lines. */
  columnS?: number
  zeroBased?: boolean
}

export function TimeChart({ label, id, at, series, format, stacked, height = 240, columnS, zeroBased = true }: Props) {
  const holder = useRef<HTMLDivElement>(null)
  const theme = useContext(ThemeContext)
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set())
  const [under, setUnder] = useState<number | null>(null)
  const shown = series.filter(s => !hidden.has(s.name))
  const key = `${theme}|${height}|${columnS}|${stacked}|${shown.map(s => s.name + s.color).join()}`
  const data = plotData(at, shown, stacked)
  const chart = useRef<uPlot | null>(null)

  useEffect(() => {
    const element = holder.current
    if (!element) return
    const muted = cssColor('muted'), grid = cssColor('line')
    const axis: uPlot.Axis = { stroke: muted, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif', gap: 6 }
    const drawn = stacked ? [...shown].reverse() : shown
    const plot = new uPlot({
      width: Math.max(200, element.clientWidth), height,
      legend: { show: false },
      cursor: { y: false, points: { show: !stacked && !columnS, size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [zeroBased ? 0 : low, high > 0 ? high * 1.08 : 1] } },
      axes: [
        { ...axis, size: 28, values: '{HH}:{mm}', space: 64, ...timeAxis(at) },
        { ...axis, size: 58, values: (_, ticks) => ticks.map(value => format(value)) },
      ],
      series: [{}, ...drawn.map((s): uPlot.Series => {
        const color = cssColor(s.color)
        return columnS
          ? { stroke: color, fill: color, width: 0, points: { show: false }, paths: uPlot.paths.bars!({ size: [0.86, 40], align: 1 }) }
          : { stroke: color, width: 1.75, dash: s.dash, spanGaps: false, points: { show: true, size: 4, stroke: color, fill: color, filter: lonely } }
      })],
      hooks: { setCursor: [u => setUnder(u.cursor.idx ?? null)] },
    }, data, element)
    plot.root.setAttribute('aria-hidden', 'true')
    chart.current = plot
    const watch = new ResizeObserver(() => { if (element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height }) })
    watch.observe(element)
    return () => { watch.disconnect(); plot.destroy(); chart.current = null }
  }, [key])

  useEffect(() => { chart.current?.setData(data) }, [at, series, hidden])

  const index = under !== null && under < at.length ? under : null
  const toggle = (name: string) => setHidden(before => { const next = new Set(before); if (!next.delete(name)) next.add(name); return next })
  return (
    <figure class="chart" data-chart={id} data-points={at.length} aria-label={label}>
      <figcaption class="legend">
        <span class="under" aria-hidden="true">{index === null ? '' : moment(at[index]! * 1000)}</span>
        {series.map(s => (
          <button type="button" key={s.name} aria-pressed={!hidden.has(s.name)} onClick={() => toggle(s.name)} title={`Show or hide ${s.name}`}>
            <i class={`swatch bg-${s.color} ${s.dash ? 'dashed' : ''}`} />{s.name}{index !== null && !hidden.has(s.name) && <b>{format(s.values[index])}</b>}
          </button>
        ))}
      </figcaption>
      <div class="plot" ref={holder} />
      <Numbers>{() => <Table caption={`${label}: the numbers`} head={['Time', ...series.map(s => s.name)]} numeric={series.map((_, i) => i + 1)}
        rows={at.map((time, i) => [moment(time * 1000), ...series.map(s => <data value={s.values[i] ?? ''}>{format(s.values[i])}</data>)]).reverse()} />}</Numbers>
    </figure>
  )
}

/** Values between gaps make no line: they get a dot. */
const lonely = (plot: uPlot, series: number) => {
  const values = plot.data[series] ?? [], found: number[] = []
  for (let i = 0; i < values.length; i++) if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i)
  return found
}

/** Stacked: running sums, the largest first, so that each column paints over the lower part of the one before it. */
function plotData(at: number[], shown: Series[], stacked?: boolean): uPlot.AlignedData {
  if (!stacked) return [at, ...shown.map(s => s.values)]
  const sums = at.map(() => 0)
  const layers = shown.map(s => s.values.map((value, i) => (sums[i] = (sums[i] ?? 0) + (value ?? 0))))
  return [at, ...layers.reverse()]
}

/** Beyond a day the axis says the date as well. */
function timeAxis(at: number[]): Partial<uPlot.Axis> {
  const span = at.length > 1 ? at[at.length - 1]! - at[0]! : 0
  return { values: span > 86_400 * 1.5 ? '{D} {MMM}' : '{HH}:{mm}' }
}
