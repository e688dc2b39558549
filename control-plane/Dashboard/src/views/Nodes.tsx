// The nodes, what they run, and what became of each text.
import { useState } from 'preact/hooks'
import type { Fault, GatewayStatus, NodeReport } from '../api'
import { useArea, useQuery } from '../hooks'
import { ago, moment } from '../format'
import { Answered, Badge, Dialog, Empty, Page, Panel, Table, When } from '../ui'

const clock = (skewMs?: number) => skewMs === undefined ? '–' : Math.abs(skewMs) < 100 ? 'right' : <span class={Math.abs(skewMs) > 2_000 ? 'refused' : ''}>{skewMs > 0 ? '+' : '−'}{(Math.abs(skewMs) / 1000).toFixed(1)} s</span>

const LeftOutNote = ({ faults }: { faults: Fault[] }) => faults.length === 0 ? null : <div class="state fault left-out" role="alert"><strong>Left out of what the nodes run</strong><ul>{faults.map((f, n) => <li key={n}><code>{f.path}</code> {f.message}</li>)}</ul></div>

/** What the nodes do not run and why, for the other views that show it as down. */
export function LeftOut() {
  const status = useQuery<GatewayStatus>(useArea('nodes') ? '/status' : null)
  return <LeftOutNote faults={status.data?.faults ?? []} />
}

export function Nodes() {
  const status = useQuery<GatewayStatus>('/status', 3_000)
  const [picked, setPicked] = useState<string | null>(null)
  return (
    <Page title="Nodes" lead={status.data ? <>Newest revision {status.data.revision}, {status.data.acknowledged ? 'run by every live node' : 'not yet run everywhere'}</> : undefined}>
      <LeftOutNote faults={status.data?.faults ?? []} />
      <Panel>
        <Answered of={status} empty={data => data.nodes.length === 0 ? <Empty title="No node has been heard of">A node's agent asks for its text by itself: ./evenkeel status, ./evenkeel logs agent.</Empty> : null}>
          {data => <Table caption="Nodes" head={['Node', 'State', 'Revision', 'Workers', 'Under way', 'Edge', 'Last seen', 'Clock', 'Enrolled', 'Trouble']} numeric={[2, 3, 4]} rows={data.nodes.map(n => [
            <button type="button" class="plain" onClick={() => setPicked(n.name)}><b>{n.name}</b></button>, !n.live ? <Badge tone="bad">silent</Badge> : n.acknowledged ? <Badge tone="ok">runs it</Badge> : <Badge tone="warn">behind</Badge>,
            n.revision, n.workers.length, n.in_flight ?? '–', n.edge_listen ?? '–', <When at={n.last_seen_at}>{ago(n.last_seen_at)}</When>,
            clock(n.clock_skew_ms), n.enrolled_at ? <When at={n.enrolled_at}>{moment(n.enrolled_at)}</When> : 'shared token',
            <span class="words">{n.fault ?? (n.last_refusal && n.last_refusal.revision > n.revision ? `revision ${n.last_refusal.revision} refused: ${n.last_refusal.words}` : '')}</span>,
          ])} />}
        </Answered>
      </Panel>
      {picked && <Reports node={picked} onClose={() => setPicked(null)} />}
    </Page>
  )
}

function Reports({ node, onClose }: { node: string; onClose: () => void }) {
  const reports = useQuery<NodeReport[]>(`/nodes/${encodeURIComponent(node)}/reports`)
  return (
    <Dialog title={`What became of each text at ${node}`} onClose={onClose} wide>
      <Answered of={reports} empty={list => list.length === 0 ? <Empty title="No report yet" /> : null}>
        {list => <Table caption="Reports" head={['When', 'Revision', 'Result', 'Stage', 'In nginx’s words']} numeric={[1]} rows={list.map(r => [<When at={r.at}>{moment(r.at)}</When>, r.revision, r.result, r.stage, <span class="words">{r.words}</span>])} />}
      </Answered>
    </Dialog>
  )
}
