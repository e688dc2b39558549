// What happened, to take along: the views of the schema report as CSV.
import { useState } from 'preact/hooks'
import { query } from '../api'
import { useQuery } from '../hooks'
import { Answered, Page, Panel, Table } from '../ui'

interface Report { name: string; description: string; time_column?: string; csv: string }

const dayMs = 86_400_000
const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10)

export function Reports() {
  const reports = useQuery<Report[]>('/reports', 600_000)
  const [from, setFrom] = useState(dayOf(Date.now() - 29 * dayMs)), [to, setTo] = useState(dayOf(Date.now()))
  // The last day is meant to be in it.
  const begin = Date.parse(from), end = Date.parse(to) + dayMs
  const fault = Number.isNaN(begin) || Number.isNaN(end) ? 'Both days are needed.' : begin >= end ? 'The first day lies after the last.' : end - begin > 400 * dayMs ? 'At most 400 days.' : null
  return (
    <Page title="Reports" lead="What happened, as CSV; as SQL it is the schema report">
      <div class="filters">
        <label class="field inline"><span>From</span><input type="date" value={from} aria-invalid={fault ? true : undefined} onInput={event => setFrom(event.currentTarget.value)} /></label>
        <label class="field inline"><span>To</span><input type="date" value={to} aria-invalid={fault ? true : undefined} onInput={event => setTo(event.currentTarget.value)} /></label>
        <span class="note">days of UTC, both included</span>
      </div>
      <Panel note="at most 100,000 rows each, oldest first">
        {fault ? <p class="refused" role="alert">{fault}</p> : <Answered of={reports}>{list => <Table caption="Reports" head={['Report', 'What it tells', '']} rows={list.map(r => [
          <code>report.{r.name}</code>, r.description + (r.time_column ? '' : ' Of all time.'),
          <a class="button" download data-report={r.name} href={r.csv + (r.time_column ? query({ from: `${from}T00:00:00Z`, to: new Date(end).toISOString() }) : '')} aria-label={`CSV of ${r.name}`}>CSV</a>,
        ])} />}</Answered>}
      </Panel>
    </Page>
  )
}
