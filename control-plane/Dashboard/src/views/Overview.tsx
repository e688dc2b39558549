// What is going on right now: clients → pool → tiers → instances.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { LiveInstance, LivePool, LiveState } from '../api'
import { linkTo, useLive } from '../hooks'
import { clock, count, millis, money, rate, share, words } from '../format'
import { Badge, Empty, FaultNote, Loading, Page, Stat } from '../ui'
import { LeftOut } from './Nodes'

export type Tone = 'ok' | 'warn' | 'bad' | 'off'

/** What keeps an instance from its full share, the gravest first. */
export function condition(i: LiveInstance): { tone: Tone; text: string } {
  if (!i.enabled) return { tone: 'off', text: 'switched off' }
  if (i.blocked) return { tone: 'bad', text: typeof i.blocked === 'string' ? `blocked: ${words(i.blocked)}` : 'blocked' }
  if (!i.healthy) return { tone: 'bad', text: 'down' }
  if (i.breaker === 'open') return { tone: 'bad', text: 'breaker open' }
  if (i.drain) return { tone: 'off', text: i.in_flight > 0 ? `draining, ${i.in_flight} left` : 'drained' }
  if (i.cooldown_s > 0) return { tone: 'warn', text: `cooling down ${Math.ceil(i.cooldown_s)} s` }
  if (i.breaker === 'half_open') return { tone: 'warn', text: 'on trial' }
  if (i.error_rate >= 0.05 && i.attempts_per_s > 0) return { tone: i.error_rate >= 0.5 ? 'bad' : 'warn', text: 'failing' }
  if (i.grey && i.grey !== 1) return { tone: 'warn', text: 'grey' }
  return { tone: 'ok', text: 'up' }
}

export function Overview() {
  const live = useLive()
  const state = live.state
  return (
    <Page title="Overview" lead={state ? <>Revision {state.revision} · {clock(state.at)}</> : undefined}>
      <LeftOut />
      {state ? <Now state={state} /> : live.fault ? <FaultNote fault={live.fault} /> : <Loading />}
    </Page>
  )
}

function Now({ state }: { state: LiveState }) {
  const known = new Map(state.instances.map(i => [i.name, i]))
  const total = state.pools.reduce((sum, p) => sum + p.requests_per_s, 0)
  const failing = total > 0 ? state.pools.reduce((sum, p) => sum + p.requests_per_s * p.error_rate, 0) / total : 0
  const inFlight = state.instances.reduce((sum, i) => sum + i.in_flight, 0), room = state.instances.filter(i => condition(i).tone !== 'off').reduce((sum, i) => sum + i.limit, 0)
  const out = state.instances.filter(i => condition(i).tone === 'bad').length
  const perHour = new Map<string, number>()
  for (const i of state.instances) for (const [currency, amount] of Object.entries(i.cost_per_hour ?? {})) perHour.set(currency, (perHour.get(currency) ?? 0) + Number(amount))
  const behind = state.nodes.filter(n => !n.live || !n.acknowledged).length
  return (
    <>
      <div class="stats" data-chart="now">
        <Stat label="Requests" value={<data value={total}>{rate(total)}</data>} />
        <Stat label="Failed for clients" value={<data value={failing}>{share(failing)}</data>} tone={failing >= 0.05 ? 'bad' : failing >= 0.01 ? 'warn' : ''} href={linkTo('errors')} />
        <Stat label="In flight" value={<><data value={inFlight}>{count(inFlight)}</data><small> of {count(room)}</small></>} />
        <Stat label="Instances out" value={<><data value={out}>{out}</data><small> of {state.instances.length}</small></>} tone={out > 0 ? 'bad' : ''} href={linkTo('health')} />
        <Stat label="Open incidents" value={state.open_incidents} tone={state.open_incidents > 0 ? 'warn' : ''} href={linkTo('incidents', { open: 'true' })} />
        <Stat label="Cost per hour" value={perHour.size === 0 ? money(0) : [...perHour].map(([currency, amount]) => money(amount, currency)).join(' + ')} href={linkTo('cost')} />
        <Stat label="Nodes" value={<>{state.nodes.length - behind}<small> of {state.nodes.length} on revision</small></>} tone={behind > 0 ? 'warn' : ''} href={linkTo('nodes')} />
      </div>
      {state.pools.length === 0 && <Empty title="There is no pool yet">Add instances and a pool under <a href={linkTo('fleet')}>Pools &amp; instances</a>, or publish a file: ./evenkeel apply evenkeel.yaml.</Empty>}
      {state.pools.map(pool => <Topology key={pool.name} pool={pool} known={known} />)}
    </>
  )
}

interface Link { name: string; d: string; width: number; tone: string; flows: boolean }

function Topology({ pool, known }: { pool: LivePool; known: Map<string, LiveInstance> }) {
  const box = useRef<HTMLDivElement>(null)
  const [links, setLinks] = useState<Link[]>([])
  const measure = () => {
    const frame = box.current
    if (!frame) return
    const outer = frame.getBoundingClientRect()
    const place = (selector: string) => frame.querySelector(selector)?.getBoundingClientRect()
    const clients = place('.t-clients'), hub = place('.t-pool')
    if (!clients || !hub || clients.bottom <= hub.top) { setLinks([]); return }   // narrow: one below the other, no lines
    const next: Link[] = []
    const bend = (x1: number, y1: number, x2: number, y2: number) => { const m = (x2 - x1) / 2; return `M${x1} ${y1}C${x1 + m} ${y1} ${x2 - m} ${y2} ${x2} ${y2}` }
    const x = (value: number) => Math.round(value - outer.left - frame.clientLeft + frame.scrollLeft), y = (value: number) => Math.round(value - outer.top - frame.clientTop)
    next.push({ name: 'clients', d: `M${x(clients.right)} ${y(clients.top + clients.height / 2)}L${x(hub.left)} ${y(hub.top + hub.height / 2)}`, width: pool.requests_per_s > 0 ? 6 : 2, tone: 'flow', flows: pool.requests_per_s > 0 })
    const calls = pool.tiers.flatMap(tier => tier.instances).reduce((sum, name) => sum + (known.get(name)?.attempts_per_s ?? 0), 0)
    frame.querySelectorAll<HTMLElement>('[data-link]').forEach(card => {
      const instance = known.get(card.dataset.link!), spot = card.getBoundingClientRect()
      if (!instance) return
      const { tone } = condition(instance), flows = instance.attempts_per_s > 0 && tone !== 'off'
      next.push({ name: card.dataset.link!, d: bend(x(hub.right), y(hub.top + hub.height / 2), x(spot.left) - 1, y(spot.top + spot.height / 2)), width: flows ? 1.5 + 9 * Math.min(1, instance.attempts_per_s / Math.max(calls, 1e-9)) : 1.5, tone: flows ? (tone === 'bad' ? 'bad' : tone === 'warn' ? 'warn' : 'flow') : 'idle', flows })
    })
    setLinks(next)
  }
  useLayoutEffect(measure, [pool, known])
  useEffect(() => {
    const watch = new ResizeObserver(measure)
    if (box.current) watch.observe(box.current)
    return () => watch.disconnect()
  }, [])
  const state = pool.state === 'up' ? null : pool.state
  return (
    <section class="panel topology" aria-label={`Pool ${pool.name}`} ref={box}>
      <svg class="links" aria-hidden="true">{links.map(l => <path key={l.name} d={l.d} class={`link ${l.tone} ${l.flows ? 'flows' : ''}`} stroke-width={l.width} />)}</svg>
      <div class="t-clients"><span>Clients</span><b>{rate(pool.requests_per_s)}</b></div>
      <a class="t-pool" href={linkTo('fleet', { pool: pool.name })}>
        <span class="t-kind">Pool</span><b>{pool.name}</b><span>{words(pool.algorithm)}</span>
        <span class={pool.error_rate >= 0.05 ? 'bad' : ''}>{share(pool.error_rate)} failed</span>
        {pool.queued > 0 && <span class="warn">{count(pool.queued)} waiting</span>}
        {state && <Badge tone={state === 'degraded' ? 'warn' : 'bad'}>{words(state)}</Badge>}
      </a>
      <div class="t-tiers">
        {[...pool.tiers].sort((a, b) => a.position - b.position).map(tier => (
          <div class="t-tier" key={tier.name}>
            <div class="t-tier-name"><span>Tier {tier.position} · {tier.name}</span>{tier.model && <code>{tier.model}</code>}</div>
            <div class="t-instances">{tier.instances.map(name => { const found = known.get(name); return found ? <InstanceCard key={name} i={found} /> : <div class="t-instance" key={name}><b>{name}</b><span>not known to any node yet</span></div> })}</div>
          </div>
        ))}
      </div>
    </section>
  )
}

function InstanceCard({ i }: { i: LiveInstance }) {
  const { tone, text } = condition(i)
  const room = Math.max(1, i.max_connections, i.limit), used = Math.min(1, i.in_flight / room)
  return (
    <a class={`t-instance ${tone}`} href={linkTo('fleet', { instance: i.name })} data-link={i.name} data-instance={i.name} data-condition={tone} data-in-flight={i.in_flight}>
      <span class="t-name"><b>{i.name}</b><span>{i.provider ?? ''}</span></span>
      <span class={`condition ${tone}`}>{text}</span>
      <span class="t-load">
        <span class="meter" role="meter" aria-label={`in flight ${i.in_flight} of ${Math.round(i.limit)}`} aria-valuenow={i.in_flight} aria-valuemin={0} aria-valuemax={Math.max(1, i.limit)}>
          <span class={`meter-fill ${i.in_flight >= i.limit ? 'full' : ''}`} style={{ width: `${used * 100}%` }} />
          {i.limit < room && <span class="meter-limit" style={{ left: `${i.limit / room * 100}%` }} />}
        </span>
        <span><b>{count(i.in_flight)}</b> of {count(i.limit)} in flight</span>
      </span>
      <Fact name="share" value={share(i.share)} title="Its share of the next choice in its tier: 0 % while it is not asked, as when it is full. What it serves is the rate." /><Fact name="rate" value={rate(i.attempts_per_s)} /><Fact name="P50" value={millis(i.p50_ms)} /><Fact name="P99" value={millis(i.p99_ms)} />
      <Fact name="failed" value={share(i.error_rate)} bad={i.error_rate >= 0.05} /><Fact name="an hour" value={Object.entries(i.cost_per_hour ?? {}).map(([, amount]) => money(amount)).join(' + ') || '–'} />
    </a>
  )
}

const Fact = ({ name, value, bad, title }: { name: string; value: string; bad?: boolean; title?: string }) => <span class={`t-fact ${bad ? 'bad' : ''}`} title={title}><b>{value}</b><span>{name}</span></span>
