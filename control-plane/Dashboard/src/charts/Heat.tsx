// The health heatmap: a grid of instances × time, walked with the arrow keys like a sheet.
import { useRef, useState } from 'preact/hooks'
import type { Heatmap, HeatmapCell } from '../api'
import { clock, count, moment, share } from '../format'
import { Numbers, Table } from '../ui'

/** State first, then error rate: `out` is out whatever little came through. */
export function cellClass(cell: HeatmapCell): string {
  if (cell.state === 'out') return 'out'
  if (cell.state === 'draining') return 'draining'
  if (cell.attempts === 0) return cell.state === 'degraded' ? 'degraded' : cell.state === 'up' ? 'up idle' : 'unknown'
  const level = cell.error_rate >= 0.2 ? 'e4' : cell.error_rate >= 0.05 ? 'e3' : cell.error_rate >= 0.01 ? 'e2' : cell.error_rate > 0 ? 'e1' : 'e0'
  return `${cell.state === 'degraded' ? 'degraded' : 'up'} ${level}`
}

const cellWords = (instance: string, cell: HeatmapCell) =>
  `${instance}, ${moment(cell.at)}: ${cell.state}, ${count(cell.attempts)} attempts, ${share(cell.error_rate)} failed` +
  (cell.incidents.length > 0 ? `, ${cell.incidents.length} ${cell.incidents.length === 1 ? 'incident' : 'incidents'}` : '')

export function Heat({ map, onPick }: { map: Heatmap; onPick: (instance: string, cell: HeatmapCell) => void }) {
  const grid = useRef<HTMLDivElement>(null)
  const columns = Math.max(0, ...map.instances.map(row => row.cells.length))
  const [focus, setFocus] = useState<[number, number]>([0, Math.max(0, columns - 1)])
  const [under, setUnder] = useState('')
  const move = (row: number, column: number) => {
    const r = Math.max(0, Math.min(map.instances.length - 1, row)), c = Math.max(0, Math.min(columns - 1, column))
    setFocus([r, c])
    grid.current?.querySelector<HTMLElement>(`[data-cell="${r}-${c}"]`)?.focus()
  }
  const onKey = (event: KeyboardEvent) => {
    const [r, c] = focus
    const to: [number, number] | undefined = ({ ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c], Home: [r, 0], End: [r, columns - 1] } as Record<string, [number, number]>)[event.key]
    if (to) { event.preventDefault(); move(...to) }
  }
  const stride = Math.max(1, Math.ceil(columns / 6)), ticks = map.instances[0]?.cells.filter((_, i) => i % stride === 0) ?? []
  return (
    <figure class="chart" data-chart="heatmap" aria-label="Health of each instance over time">
      <div class="heat" role="grid" aria-label="Health of each instance over time; arrow keys move, Enter shows a cell's incidents" aria-rowcount={map.instances.length} aria-colcount={columns} ref={grid} onKeyDown={onKey} onMouseLeave={() => setUnder('')}>
        {map.instances.map((row, r) => (
          <div class="heat-row" role="row" key={row.instance}>
            <span class="heat-name" role="rowheader" title={row.instance}>{row.instance}</span>
            <div class="heat-cells" role="none">
              {row.cells.map((cell, c) => (
                <button type="button" role="gridcell" key={c} class={`cell ${cellClass(cell)} ${cell.incidents.length > 0 ? 'marked' : ''}`}
                  data-cell={`${r}-${c}`} data-state={cell.state} tabIndex={focus[0] === r && Math.min(focus[1], columns - 1) === c ? 0 : -1} aria-label={cellWords(row.instance, cell)}
                  onFocus={() => { setFocus([r, c]); setUnder(cellWords(row.instance, cell)) }} onMouseEnter={() => setUnder(cellWords(row.instance, cell))} onClick={() => onPick(row.instance, cell)} />
              ))}
            </div>
          </div>
        ))}
        <div class="heat-row axis" role="none" aria-hidden="true"><span class="heat-name" /><div class="heat-ticks">{ticks.map((cell, i) => <span key={cell.at} style={{ flexGrow: Math.min(stride, columns - i * stride) }}>{columns * map.step_s > 86_400 * 1.5 ? moment(cell.at).split(',')[0] : clock(cell.at).slice(0, 5)}</span>)}</div></div>
      </div>
      <p class="under heat-under" aria-hidden="true">{under || 'Pick a cell for its incidents.'}</p>
      <ul class="key" aria-label="Colours">
        <li><i class="cell up e0" />up</li><li><i class="cell up e2" />1 % failed</li><li><i class="cell up e3" />5 %</li><li><i class="cell up e4" />20 %</li>
        <li><i class="cell degraded" />degraded</li><li><i class="cell out" />out</li><li><i class="cell draining" />draining</li><li><i class="cell unknown" />no data</li><li><i class="cell up e0 marked" />incident</li>
      </ul>
      <Numbers>{() => <Table caption="Health: the numbers" head={['Instance', 'Time', 'State', 'Attempts', 'Failed', 'Share', 'Incidents']} numeric={[3, 4, 5, 6]}
        rows={map.instances.flatMap(row => row.cells.filter(cell => cell.attempts > 0 || cell.state !== 'unknown').slice(-60).map(cell =>
          [row.instance, moment(cell.at), cell.state, <data value={cell.attempts}>{count(cell.attempts)}</data>, <data value={cell.failed}>{count(cell.failed)}</data>, share(cell.error_rate), String(cell.incidents.length)]))} />}</Numbers>
    </figure>
  )
}
