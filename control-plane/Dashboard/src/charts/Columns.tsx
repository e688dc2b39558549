// A histogram: one column per bucket, in HTML.
import { Numbers, Table } from '../ui'
import { count, millis, share } from '../format'

export function Histogram({ label, id, buckets }: { label: string; id: string; buckets: { le_ms: number | null; count: number }[] }) {
  const total = buckets.reduce((sum, b) => sum + b.count, 0)
  // Of the empty buckets at either end a few are enough.
  const first = buckets.findIndex(b => b.count > 0), last = buckets.findLastIndex(b => b.count > 0)
  const from = Math.max(0, first - 3), shown = buckets.slice(from, Math.min(buckets.length, last + 4))
  const most = Math.max(1, ...shown.map(b => b.count))
  const name = (b: { le_ms: number | null }, i: number) => b.le_ms === null ? `above ${millis(buckets[buckets.length - 2]?.le_ms)}` : `${i + from === 0 ? '0' : millis(buckets[i + from - 1]?.le_ms)} – ${millis(b.le_ms)}`
  return (
    <figure class="chart" data-chart={id} data-total={total} aria-label={label}>
      <div class="columns" aria-hidden="true">
        {shown.map((b, i) => (
          <div class="column" key={i} title={`${name(b, i)}: ${count(b.count)} (${share(b.count / Math.max(1, total))})`}>
            <div class="fill" style={{ height: `${b.count / most * 100}%` }} />
            <span>{b.le_ms === null ? '∞' : millis(b.le_ms)}</span>
          </div>
        ))}
      </div>
      <Numbers>{() => <Table caption={`${label}: the numbers`} head={['Took', 'Calls', 'Share']} numeric={[1, 2]}
        rows={shown.map((b, i) => [name(b, i), <data value={b.count}>{count(b.count)}</data>, share(b.count / Math.max(1, total))])} />}</Numbers>
    </figure>
  )
}
