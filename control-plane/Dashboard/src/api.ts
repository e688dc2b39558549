// The REST API as the dashboard sees it: calls, refusals, the session. Shapes are those of docs/openapi.json.

export interface Fault { path: string; message: string }

/** An answer that is not a success. Status 0: none came. */
export class Refusal extends Error {
  constructor(readonly status: number, readonly title: string, readonly detail: string, readonly errors: Fault[] = []) {
    super(detail || title)
  }
}

export interface Answer<T> { data: T; etag: string | null }

export interface CallOptions { body?: unknown; text?: string; type?: string; accept?: string; ifMatch?: string | null; signal?: AbortSignal }

type Listener = () => void
const lost = new Set<Listener>()

/** Called whenever an answer says that nobody is signed in. */
export function onSignedOut(listener: Listener): () => void {
  lost.add(listener)
  return () => lost.delete(listener)
}

export const root = '/api/v1'

export async function send(method: string, path: string, options: CallOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { accept: options.accept ?? 'application/json' }
  // A page of another origin cannot send this header: that is what it says.
  if (method !== 'GET') headers['x-evenkeel-csrf'] = '1'
  if (options.ifMatch) headers['if-match'] = options.ifMatch
  let body: string | undefined
  if (options.text !== undefined) { body = options.text; headers['content-type'] = options.type ?? 'text/plain' }
  else if (options.body !== undefined) { body = JSON.stringify(options.body); headers['content-type'] = options.type ?? 'application/json' }
  let answer: Response
  try {
    answer = await fetch(root + path, { method, headers, body, signal: options.signal, credentials: 'same-origin', cache: 'no-store' })
  } catch (fault) {
    if (options.signal?.aborted) throw fault
    throw new Refusal(0, 'No answer', 'The control plane does not answer. Traffic needs only the nodes and goes on.')
  }
  if (answer.ok) return answer
  if (answer.status === 401 && path !== '/session') lost.forEach(listener => listener())
  throw await refusalOf(answer)
}

async function refusalOf(answer: Response): Promise<Refusal> {
  const text = await answer.text()
  try {
    const problem = JSON.parse(text)
    return new Refusal(answer.status, problem.title ?? `${answer.status}`, problem.detail ?? '', Array.isArray(problem.errors) ? problem.errors : [])
  } catch {
    return new Refusal(answer.status, answer.status === 404 ? 'Not there' : `Status ${answer.status}`, text.slice(0, 200))
  }
}

export async function call<T>(method: string, path: string, options: CallOptions = {}): Promise<Answer<T>> {
  const answer = await send(method, path, options)
  const text = await answer.text()
  const json = text.length > 0 && (answer.headers.get('content-type') ?? '').includes('json')
  return { data: (json ? JSON.parse(text) : text) as T, etag: answer.headers.get('etag') }
}

export const get = async <T>(path: string, signal?: AbortSignal): Promise<T> => (await call<T>('GET', path, { signal })).data

/** `?a=1&b=2` of what has a value. */
export function query(values: Record<string, string | number | boolean | null | undefined>): string {
  const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '')
  return pairs.length === 0 ? '' : '?' + pairs.map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`).join('&')
}

// ---- the session

export type Role = 'viewer' | 'operator' | 'admin'
/** Parts of the API; a token may be bound to some of them. */
export const areas = ['config', 'clients', 'nodes', 'telemetry', 'incidents', 'alerts', 'ghosts', 'access'] as const
export type Area = typeof areas[number]
export interface Session { name: string; role: Role; areas?: Area[] }

// The cookie is out of a script's sight. That there was one is remembered, so that nobody is asked about it in vain.
const mark = 'evenkeel.session'
const note = (there: boolean) => { try { if (there) localStorage.setItem(mark, '1'); else localStorage.removeItem(mark) } catch { /* a private window */ } }

export async function signIn(token: string): Promise<Session> {
  const { data } = await call<Session>('POST', '/session', { body: { token } })
  note(true)
  return data
}

export async function signOut(): Promise<void> {
  note(false)
  await call('DELETE', '/session')
}

/** Who is signed in; null: nobody. */
export async function whoAmI(): Promise<Session | null> {
  try {
    if (localStorage.getItem(mark) === null) return null
    return await get<Session>('/session')
  } catch (fault) {
    if (!(fault instanceof Refusal)) return null
    if (fault.status !== 401) throw fault
    note(false)
    return null
  }
}

// ---- what the API speaks of

export interface Instance {
  name: string; base_url: string; provider?: string; api_key?: string; model?: string; weight: number; max_connections: number
  base_latency: string; enabled: boolean; drain: boolean; capabilities?: string[]
  timeouts?: { connect?: string; first_token?: string; idle?: string; total?: string }
  price?: { input_per_million?: number; output_per_million?: number; cached_input_per_million?: number; currency?: string }
}
export interface Tier { name: string; instances: string[]; model?: string }
export interface Pool {
  name: string; models: string[]; algorithm: string; tiers: Tier[]
  queue?: { size?: number; timeout?: string }; retry?: { max_attempts?: number }
}
export interface RevisionSummary { number: number; created_at: string; author: string; message: string; digest: string }
export interface Difference { path: string; from?: unknown; to?: unknown }
export interface IncidentComment { at: string; author: string; text: string }
export interface Incident {
  id: number; kind: string; subject: string; node?: string; since: string; until?: string; open: boolean; cause?: string
  evidence: { first?: Record<string, unknown>; last?: Record<string, unknown>; causes?: Record<string, number> }
  events: number; last_event_at: string; revision?: number; acknowledged_at?: string; acknowledged_by?: string
  comment_count: number; comments?: IncidentComment[]
  requests_affected?: number; requests_degraded?: number; requests_lost?: number; cost?: number | string
  impact?: { requests_affected?: number; requests_degraded?: number; requests_lost?: number; cost?: number | string }
}
export interface GatewayNode {
  name: string; live: boolean; acknowledged: boolean; revision: number; text_digest?: string; desired_text_digest?: string
  workers: { pid: number; revision: number; text_digest: string; age_s: number }[]
  last_seen_at: string; in_flight?: number; clock_skew_ms?: number; enrolled_at?: string; admin_url: string; edge_listen?: string; fault?: string
  last_refusal?: { revision: number; stage: string; words: string; at: string }
}
export interface GatewayStatus { revision: number; acknowledged: boolean; nodes: GatewayNode[]; faults: Fault[] }
export interface NodeReport { revision: number; text_digest: string; result: string; stage: string; words: string; at: string }

// Telemetry

export interface LiveInstance {
  name: string; provider?: string; healthy: boolean; enabled: boolean; drain: boolean; grey?: boolean | number; in_flight: number; limit: number
  max_connections: number; weight: number; live_weight: number; share: number; breaker: string; cooldown_s: number; blocked?: string | boolean
  attempts_per_s: number; error_rate: number; p50_ms?: number; p99_ms?: number
  /** By currency. */
  cost_per_hour?: Record<string, number | string>
}
export interface LivePool {
  name: string; algorithm: string; queued: number; requests_per_s: number; error_rate: number; state: string
  tiers: { name: string; position: number; model?: string; instances: string[] }[]
}
export interface LiveState {
  at: string; revision: number; nodes: { name: string; live: boolean; revision: number; workers: number; acknowledged: boolean }[]
  pools: LivePool[]; instances: LiveInstance[]; open_incidents: number
}
export interface LatencySeries { name: string; points: { at: string; count: number; p50_ms?: number; p90_ms?: number; p99_ms?: number }[] }
export interface Latency { measure: string; step_s: number; from: string; to: string; series: LatencySeries[]; distribution: { le_ms: number | null; count: number }[] }
export interface Errors { step_s: number; points: { at: string; requests: number; outcomes: Record<string, number> }[] }
export interface HeatmapCell { at: string; attempts: number; failed: number; error_rate: number; state: string; incidents: number[] }
export interface Heatmap { step_s: number; from: string; to: string; instances: { instance: string; cells: HeatmapCell[] }[] }
export interface CostRow {
  name: string; currency: string; total: number | string; estimated: number | string; per_hour: number | string; projected_month: number | string
  points: { at: string; amount: number | string }[]
}
export interface Budget { client: string; amount: number | string; currency: string; per: string; spent: number | string; used_share: number; unconverted?: string[] }
export interface Cost { step_s: number; from: string; to: string; rows: CostRow[]; budgets: Budget[] }
export interface Roi {
  from: string; to: string
  spent: { currency: string; total: number | string; redundancy: number | string; failed: number | string; cut: number | string; probes: number | string; ghosts: number | string }[]
  outage_prevented_minutes: number; revenue_per_hour?: number | string; currency?: string; saved?: number | string; net?: number | string; unconverted?: string[]; method: string
}
export interface TraceAttempt { instance: string; tier: number; outcome: string; began_ms: number; duration_ms: number; first_token_ms?: number | null; of?: number; live_weight?: number }
export interface Trace {
  at: string; node?: string; request_id: string; client?: string; pool: string; model?: string; kind?: string; mode?: string; status: number; outcome: string
  /** 0: a stale answer; absent: nobody answered. */
  tier?: number; degraded: boolean; duration_ms: number; queued_ms?: number; reason?: string | null; revision?: number; attempts: TraceAttempt[]
}

// Alerts

export interface Alert {
  id: number; rule: string; metric?: string; condition?: string; pool?: string; instance?: string; client?: string; state: 'pending' | 'firing' | 'resolved'
  silenced: boolean; value?: number; shown?: string; cause?: string; since: string; fired_at?: string; resolved_at?: string; told_at?: string
}
export interface AlertRule { name: string; metric: string; condition: string; for: string; pool?: string; instance?: string; is_default: boolean }
export interface Silence { id: number; rule?: string; pool?: string; instance?: string; until: string; reason: string; created_by: string; created_at: string; active: boolean }
export interface Delivery { id: number; webhook: string; state: string; attempts: number; created_at: string; next_at?: string; done_at?: string; status?: number; words?: string }
