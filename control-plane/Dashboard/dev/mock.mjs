// For work on the dashboard without a gateway: the files of ../wwwroot under the real Content-Security-Policy, and an API with made-up
// traffic. `node build.mjs && node dev/mock.mjs [PORT]`; any token signs in, `viewer` and `operator` as such; it changes nothing.
import { createServer } from 'node:http'
import { readFile } from 'node:fs/promises'
import { extname } from 'node:path'

const port = Number(process.argv[2] ?? 8090)
const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' }
const names = ['official-1', 'official-2', 'siliconflow', 'own-vllm', 'lite']
const limits = { 'official-1': 50, 'official-2': 50, siliconflow: 40, 'own-vllm': 20, lite: 40 }
const outcomes = ['rate_limited', 'server_error', 'bad_gateway', 'timeout_first_token', 'stalled', 'truncated', 'client_error']
const bounds = [50, 100, 200, 300, 400, 500, 600, 800, 1000, 1500, 2000, 3000, 5000, 8000, 13000, 20000, 60000]
let role = null

/** Always the same number for the same words, 0 … 1. */
const hash = text => { let h = 2166136261; for (const c of text) h = Math.imul(h ^ c.charCodeAt(0), 16777619); h ^= h >>> 15; h = Math.imul(h, 2246822507); return ((h ^ h >>> 13) >>> 0) / 4294967296 }
const iso = ms => new Date(ms).toISOString()
const times = q => { const step = Number(q.get('step_s') ?? 60) * 1000, list = []; for (let t = Date.parse(q.get('from')); t < Date.parse(q.get('to')); t += step) list.push(t); return list }
const wave = (t, name) => 1 + 0.5 * Math.sin(t / 4e6 + hash(name) * 6) + 0.25 * (hash(name + t) - 0.5)
const bad = (t, name) => name === 'siliconflow' && Math.floor(t / 6e5) % 7 === 3

const live = () => {
  const t = Date.now(), share = { 'official-1': 0.42, 'official-2': 0.38, siliconflow: 0, 'own-vllm': 0.2, lite: 0 }
  return {
    at: iso(t), revision: 14, open_incidents: 2,
    nodes: [{ name: 'node-1', live: true, revision: 14, workers: 2, acknowledged: true }, { name: 'node-2', live: true, revision: 14, workers: 2, acknowledged: true }],
    pools: [{ name: 'chat', algorithm: 'weighted', queued: 0, requests_per_s: 96 + 8 * Math.sin(t / 9e3), error_rate: 0.002, state: 'up', tiers: [{ name: 'primary', position: 1, instances: names.slice(0, 4) }, { name: 'degraded', position: 2, model: 'deepseek-v2-lite', instances: ['lite'] }] }],
    instances: names.map(name => ({
      name, provider: name.startsWith('official') ? 'deepseek' : name, healthy: true, enabled: true, drain: false, grey: name === 'own-vllm', weight: limits[name], live_weight: limits[name] * 0.6,
      in_flight: Math.round(limits[name] * share[name] * 2 * (0.7 + 0.3 * Math.sin(t / 5e3 + hash(name)))), limit: name === 'own-vllm' ? 14 : limits[name], max_connections: limits[name],
      share: share[name], breaker: name === 'siliconflow' ? 'open' : 'closed', cooldown_s: 0, attempts_per_s: 100 * share[name], error_rate: name === 'siliconflow' ? 0.62 : 0.003, p50_ms: 780 + 100 * hash(name), p99_ms: 2100 + 900 * hash(name), cost_per_hour: { USD: share[name] * 4.1 },
    })),
  }
}
const series = (q, name) => ({ name, points: times(q).map(t => { const p50 = 760 * wave(t, name) * (bad(t, name) ? 3 : 1); return { at: iso(t), count: Math.round(300 * wave(t, name)), p50_ms: p50, p90_ms: p50 * 1.6, p99_ms: p50 * (2.4 + hash(name + t)) } }) })
const costRow = (q, name, size) => { const points = times(q).map(t => ({ at: iso(t), amount: size * wave(t, name) * 0.003 })), total = points.reduce((s, p) => s + p.amount, 0); return { name, currency: 'USD', total, estimated: total * 0.004, per_hour: size * 0.9, projected_month: size * 650, points } }
const incidents = [
  { id: 41, kind: 'breaker', subject: 'siliconflow', node: 'node-1', since: iso(Date.now() - 94e3), open: true, cause: 'server_error', evidence: { first: { outcome: 'server_error', words: '502 from upstream' }, causes: { server_error: 31 } }, events: 31, last_event_at: iso(Date.now() - 4e3), revision: 14, comment_count: 1, comments: [{ at: iso(Date.now() - 5e4), author: 'ops', text: 'Their status page says so, too.' }], requests_affected: 212, requests_degraded: 0, requests_lost: 0, cost: 0.0131 },
  { id: 40, kind: 'grey', subject: 'own-vllm', since: iso(Date.now() - 4e6), open: true, cause: 'slow', evidence: {}, events: 9, last_event_at: iso(Date.now() - 6e4), revision: 13, comment_count: 0, requests_affected: 38 },
  { id: 39, kind: 'cooldown', subject: 'official-2', node: 'node-2', since: iso(Date.now() - 9e6), until: iso(Date.now() - 89e5), open: false, cause: 'rate_limited', evidence: {}, events: 4, last_event_at: iso(Date.now() - 89e5), revision: 13, acknowledged_by: 'ops', acknowledged_at: iso(Date.now() - 8e6), comment_count: 0, requests_affected: 12 },
]
const instances = names.map(name => ({ name, base_url: `https://${name}.example/v1`, provider: name, api_key: 'secret:7', weight: limits[name], max_connections: limits[name], base_latency: '800ms', enabled: true, drain: false, timeouts: { first_token: '10s', total: '10m' }, price: { input_per_million: 0.27, output_per_million: 1.1 } }))
const pools = [{ name: 'chat', models: ['deepseek-chat', 'deepseek-v3'], algorithm: 'weighted', tiers: live().pools[0].tiers, queue: { size: 100, timeout: '2s' }, retry: { max_attempts: 4 } }]
const traces = Array.from({ length: 20 }, (_, n) => ({ id: n, at: iso(Date.now() - n * 3100), request_id: `a17f4c${n}e99b2d`, client: n % 3 ? 'web-app' : '', pool: 'chat', model: 'deepseek-chat', kind: 'chat', mode: 'stream', status: 200, outcome: n % 5 === 4 ? 'server_error' : 'ok', tier: 1, degraded: false, duration_ms: 912, queued_ms: 0, revision: 14, attempts: [...n % 2 ? [{ instance: 'siliconflow', tier: 1, outcome: 'server_error', began_ms: 0, duration_ms: 130, of: 4, live_weight: 22 }] : [], { instance: 'official-1', tier: 1, outcome: 'ok', began_ms: n % 2 ? 131 : 0, duration_ms: 780, first_token_ms: 230, of: 3, live_weight: 31 }] }))

const ghosts = Array.from({ length: 24 }, (_, n) => { const instance = names[n % 5], bad = instance === 'own-vllm' && n % 2 === 0; return { id: 90 - n, at: iso(Date.now() - n * 6e4), instance, pool: 'chat', node: 'node-1', model: 'deepseek-chat', prompt: n % 3 ? 'built-in/sum' : 'sample/7', trigger: 'schedule', stream: true, verdict: bad ? 'bad' : 'good', outcome: 'ok', faults: bad ? ['slow'] : [], words: bad ? 'first token after 2410 ms, usually 700 ms' : undefined, first_token_ms: bad ? 2410 : 690, total_ms: 980, tokens_per_second: 41, input_tokens: 21, output_tokens: 12, length: 48, finish_reason: 'stop', held: true } })

const answers = {
  '/telemetry/latency': q => ({ measure: q.get('measure'), from: q.get('from'), to: q.get('to'), step_s: Number(q.get('step_s')), series: (q.get('instance') ? [q.get('instance')] : q.get('by') === 'pool' ? ['chat'] : names).map(name => series(q, name)), distribution: [...bounds.map((le_ms, i) => ({ le_ms, count: Math.round(9000 * Math.exp(-((i - 7) ** 2) / 6)) })), { le_ms: null, count: 2 }] }),
  '/telemetry/errors': q => ({ step_s: Number(q.get('step_s')), points: times(q).map(t => { const failed = Object.fromEntries(outcomes.map(o => [o, Math.round(14 * hash(o) * hash(o + t) ** 3 * (bad(t, 'siliconflow') ? 5 : 1))])); return { at: iso(t), requests: 1500, outcomes: { ok: 1400, ...failed } } }) }),
  '/telemetry/heatmap': q => ({ step_s: Number(q.get('step_s')), from: q.get('from'), to: q.get('to'), instances: names.map(instance => ({ instance, cells: times(q).map(t => { const out = bad(t, instance), luck = hash(t + instance), rate = out ? 0.6 : luck > 0.97 ? 0.08 : luck > 0.9 ? 0.02 : luck > 0.8 ? 0.004 : 0; return { at: iso(t), attempts: 300, failed: Math.round(300 * rate), error_rate: rate, state: out ? 'out' : instance === 'own-vllm' && t > Date.now() - 9e5 ? 'degraded' : 'up', incidents: out ? [41] : [] } }) })) }),
  '/telemetry/cost': q => ({ from: q.get('from'), to: q.get('to'), step_s: Number(q.get('step_s')), rows: (q.get('by') === 'client' ? ['web-app', 'batch', ''] : q.get('by') === 'waste' ? ['', 'failed', 'cut', 'gone'] : names).map((name, i) => costRow(q, name, 4 / (i + 1))), budgets: [{ client: 'web-app', amount: 500, currency: 'USD', per: 'month', spent: 431.2, used_share: 0.862 }, { client: 'batch', amount: 20, currency: 'USD', per: 'day', spent: 3.1, used_share: 0.155 }] }),
  '/telemetry/roi': q => ({ from: q.get('from'), to: q.get('to'), spent: [{ currency: 'USD', total: 38.2, redundancy: 2.1, failed: 0.6, cut: 0.2, probes: 0.01, ghosts: 0.4 }], outage_prevented_minutes: 47, revenue_per_hour: 160, currency: 'GBP', saved: 125.33, net: 123.1, method: 'Minutes in which the first-choice instance was out or failing while the pool answered, times revenue per hour.' }),
  '/instances': () => instances, '/pools': () => pools, '/incidents': () => incidents, '/traces': () => traces,
  '/health': () => names.map(instance => ({ instance, status: instance === 'siliconflow' ? 'down' : 'up', since: iso(Date.now() - 9e6), outcome: 'ok', kind: 'models', latency_ms: 120, probed_at: iso(Date.now() - 4e3), next_at: iso(Date.now() + 6e3), probes: 900 })),
  '/status': () => ({ revision: 14, acknowledged: true, faults: [], nodes: live().nodes.map(n => ({ ...n, workers: [{ pid: 1, revision: 14 }, { pid: 2, revision: 14 }], last_seen_at: iso(Date.now()), edge_listen: '0.0.0.0:8080' })) }),
  '/revisions': () => [14, 13, 12].map(number => ({ number, created_at: iso(Date.now() - (15 - number) * 4e6), author: 'admin', message: number === 13 ? 'more for our own' : '', digest: 'ab' })),
  '/alerts': () => [{ id: 5, rule: 'errors', condition: 'error_rate above 5 %', pool: 'chat', state: 'firing', silenced: false, shown: '6.2 %', since: iso(Date.now() - 2e5) }],
  '/alerts/rules': () => [{ name: 'errors', metric: 'error_rate', condition: 'error_rate above 5 %', for: '1m', is_default: true }],
  '/silences': () => [{ id: 1, rule: 'errors', until: iso(Date.now() + 36e5), reason: 'maintenance', created_by: 'ops', created_at: iso(Date.now()), active: true }],
  '/webhooks/deliveries': () => [{ id: 9, webhook: 'pager', state: 'sent', attempts: 1, created_at: iso(Date.now() - 1e5), status: 200 }],
  '/ghosts': q => ({ instances: names.map(instance => ({ instance, pool: 'chat', status: instance === 'own-vllm' ? 'grey' : 'ok', weight_factor: instance === 'own-vllm' ? 0.5 : 1, verdicts: instance === 'own-vllm' ? 'gbbgbb' : 'gggg', since: iso(Date.now() - 4e6), cause: instance === 'own-vllm' ? 'slow' : undefined, ghosts: 40, next_at: iso(Date.now() + 9e4) })), budgets: [{ pool: 'chat', tokens: 8200, max_tokens_per_day: 100000, ghosts: 61, skipped: 0 }], prompts: [], results: ghosts.filter(g => (!q.get('instance') || g.instance === q.get('instance')) && (!q.get('verdict') || g.verdict === q.get('verdict')) && (!q.get('prompt') || g.prompt === q.get('prompt'))) }),
  '/ghosts/samples': () => [{ id: 7, pool: 'chat', at: iso(Date.now() - 5e5), body: { messages: [{ role: 'user', content: 'I am [masked]; when does my parcel come?' }], temperature: 0 } }],
  '/reports': () => [{ name: 'cost_daily', description: 'Tokens and money per UTC day.', time_column: 'day', csv: '/api/v1/reports/cost_daily.csv' }, { name: 'mttr_by_instance', description: 'How long repairs take.', csv: '/api/v1/reports/mttr_by_instance.csv' }],
  '/config': () => 'instances:\n  - {name: official-1, base_url: "https://api.deepseek.com/v1"}\n',
}

createServer(async (request, response) => {
  const url = new URL(request.url, 'http://x')
  response.setHeader('content-security-policy', "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
  const json = (body, status = 200) => { response.writeHead(status, { 'content-type': 'application/json', etag: '"14"' }); response.end(JSON.stringify(body)) }
  if (!url.pathname.startsWith('/api/v1')) {
    const path = url.pathname === '/' ? '/index.html' : url.pathname
    try { const file = await readFile(new URL('../../wwwroot' + path, import.meta.url)); response.writeHead(200, { 'content-type': types[extname(path)] ?? 'text/plain' }); response.end(file) } catch { response.writeHead(404).end() }
    return
  }
  let text = ''
  for await (const part of request) text += part
  const path = url.pathname.slice('/api/v1'.length)
  if (path === '/session') {
    if (request.method === 'POST') { const { token } = JSON.parse(text); if (token === 'wrong') return json({ title: 'Unauthorized' }, 401); role = ['viewer', 'operator'].includes(token) ? token : 'admin' }
    if (request.method === 'DELETE') role = null
    return role ? json({ name: role, role }) : json({ title: 'Unauthorized' }, 401)
  }
  if (path === '/telemetry/live') {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const tell = () => response.write(`event: state\ndata: ${JSON.stringify(live())}\n\n`), timer = setInterval(tell, 2000)
    request.on('close', () => clearInterval(timer)); response.on('close', () => clearInterval(timer)); tell()
    return
  }
  if (request.method === 'PATCH' || request.method === 'PUT') return json({ title: 'Not a valid configuration', errors: [{ path: 'weight', message: 'must be 0 to 1000' }] }, 422)
  const one = path.match(/^\/(incidents|traces)\/(.+)$/)
  if (one) return json(answers['/' + one[1]]().find(item => String(item.id) === one[2] || item.request_id === one[2]) ?? traces[1])
  if (/^\/revisions\/\d+\/diff\/\d+$/.test(path)) return json([{ path: 'instances[own-vllm].weight', from: 10, to: 20 }])
  const answer = answers[path]
  return answer ? json(answer(url.searchParams)) : json({ title: 'Not found', detail: `${path} is not part of the mock.` }, 404)
}).listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${port}/`))
