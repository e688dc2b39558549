// Instances × time, coloured by state and error rate; a cell leads to its incidents. Below: what the probes say.
import { useState } from 'preact/hooks'
import { query, type Heatmap, type HeatmapCell, type Incident } from '../api'
import { linkTo, useMoving, useQuery, useWindow } from '../hooks'
import { Heat } from '../charts/Heat'
import { ago, count, lasted, millis, moment, seconds, share, words } from '../format'
import { Answered, Badge, Dialog, Empty, Page, Panel, Table, useRange, When } from '../ui'
import { IncidentDialog } from './Incidents'

interface Probed { instance: string; status: string; since: string; outcome?: string; words?: string; kind?: string; latency_ms?: number; node?: string; probed_at?: string; probes: number }

export function Health() {
  const [range, chooser] = useRange()
  const window = useWindow(range)
  const map = useMoving<Heatmap>('/telemetry/heatmap' + query({ ...window }))
  const probes = useQuery<Probed[]>('/health')
  const [picked, setPicked] = useState<{ instance: string; cell: HeatmapCell } | null>(null)
  return (
    <Page title="Health" lead="Every instance over time" tools={chooser}>
      <Panel title="Instances over time" note={`a cell is ${seconds(map.data?.step_s ?? range.step)}`}>
        <Answered of={map} empty={data => data.instances.length === 0 ? <Empty title="There is no instance yet">Publish a configuration, and its instances appear here.</Empty> : null}>
          {data => <Heat map={data} onPick={(instance, cell) => setPicked({ instance, cell })} />}
        </Answered>
      </Panel>
      <Panel title="Probes">
        <Answered of={probes} empty={list => list.length === 0 ? <Empty title="No probe yet">The first ones are sent within the interval of health_check.</Empty> : null}>
          {list => <Table caption="What the probes say" head={['Instance', 'Status', 'For', 'Asked for', 'Answered in', 'Last', 'In its words']} numeric={[4]} rows={list.map(p => [
            <b>{p.instance}</b>, <Badge tone={p.status === 'up' ? 'ok' : p.status === 'down' ? 'bad' : 'off'}>{p.status}</Badge>, <When at={p.since}>{lasted(p.since, undefined)}</When>,
            p.kind ?? '–', millis(p.latency_ms), p.probed_at ? <When at={p.probed_at}>{ago(p.probed_at)}</When> : '–', <span class="words">{p.words ?? p.outcome ?? ''}</span>,
          ])} />}
        </Answered>
      </Panel>
      {picked && <CellDialog {...picked} stepS={map.data?.step_s ?? range.step} onClose={() => setPicked(null)} />}
    </Page>
  )
}

// A pool, node or client may have the instance's name; what is theirs is not the cell's.
const ofInstances = ['probe', 'grey', 'breaker', 'cooldown', 'blocked', 'limit_collapsed']

function CellDialog({ instance, cell, stepS, onClose }: { instance: string; cell: HeatmapCell; stepS: number; onClose: () => void }) {
  const until = new Date(Date.parse(cell.at) + stepS * 1000).toISOString()
  const incidents = useQuery<Incident[]>('/incidents' + query({ subject: instance, since: cell.at, until, limit: 200 }))
  const [open, setOpen] = useState<number | null>(null)
  if (open !== null) return <IncidentDialog id={open} onClose={onClose} />
  return (
    <Dialog title={`${instance}, ${moment(cell.at)}`} onClose={onClose}>
      <p>State <b>{cell.state}</b>; {count(cell.attempts)} attempts, {count(cell.failed)} failed ({share(cell.error_rate)}).</p>
      <Answered of={incidents} empty={list => list.some(i => ofInstances.includes(i.kind)) ? null : <Empty title="No incident in this time" />}>
        {list => <ul class="plain-list" data-list="cell-incidents">{list.filter(i => ofInstances.includes(i.kind)).map(i => <li key={i.id}><button type="button" class="plain" data-incident={i.id} onClick={() => setOpen(i.id)}>#{i.id} {words(i.kind)}{i.cause ? `: ${words(i.cause)}` : ''}</button> <span class="note">{moment(i.since)}, {i.open ? 'still open' : `for ${lasted(i.since, i.until)}`}</span></li>)}</ul>}
      </Answered>
      <p class="row"><a href={linkTo('incidents', { subject: instance })}>All its incidents</a><a href={linkTo('traces', { instance })}>Requests</a></p>
    </Dialog>
  )
}
