// What the views share: answers that keep themselves fresh, the live state, the route, the time range, the theme.
import { createContext } from 'preact'
import { useCallback, useContext, useEffect, useRef, useState } from 'preact/hooks'
import { call, get, Refusal, send, type Area, type LiveState, type Role, type Session } from './api'

// ---- answers

export interface Query<T> { data: T | null; etag: string | null; fault: Refusal | null; refresh: () => Promise<void> }

/**
 * The answer to a GET, asked again every `everyMs` while the page is in sight. The last good answer stays while a newer
 * one fails: then both data and fault are there. Path null asks nothing.
 */
export function useQuery<T>(path: string | null, everyMs = 10_000): Query<T> {
  const [state, setState] = useState<{ path: string | null; data: T | null; etag: string | null; fault: Refusal | null }>({ path, data: null, etag: null, fault: null })
  const control = useRef<AbortController | null>(null)
  const ask = useCallback(async () => {
    if (path === null) return
    control.current?.abort()
    const mine = control.current = new AbortController()
    try {
      const { data, etag } = await call<T>('GET', path, { signal: mine.signal })
      if (!mine.signal.aborted) setState({ path, data, etag, fault: null })
    } catch (fault) {
      if (mine.signal.aborted) return
      setState(before => ({
        path, data: before.path === path ? before.data : null, etag: before.path === path ? before.etag : null,
        fault: fault instanceof Refusal ? fault : new Refusal(0, 'The answer could not be read', String(fault)),
      }))
    }
  }, [path])
  useEffect(() => {
    void ask()
    const timer = setInterval(() => { if (!document.hidden) void ask() }, everyMs)
    const onShow = () => { if (!document.hidden) void ask() }
    document.addEventListener('visibilitychange', onShow)
    return () => { clearInterval(timer); document.removeEventListener('visibilitychange', onShow); control.current?.abort() }
  }, [ask, everyMs])
  return state.path === path ? { data: state.data, etag: state.etag, fault: state.fault, refresh: ask } : { data: null, etag: null, fault: null, refresh: ask }
}

// ---- the live state

export interface Live { state: LiveState | null; connected: boolean; fault: Refusal | null }
export const LiveContext = createContext<Live>({ state: null, connected: false, fault: null })
export const useLive = () => useContext(LiveContext)

/** Reads server-sent events until the stream ends; comments and foreign events are skipped. */
async function readEvents(body: ReadableStream<Uint8Array>, onEvent: (name: string, data: string) => void): Promise<void> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = '', name = 'message', data: string[] = []
  for (;;) {
    const { value, done } = await reader.read()
    if (done) return
    const lines = (rest + decoder.decode(value, { stream: true })).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines.map(text => text.replace(/\r$/, ''))) {
      if (line === '') { if (data.length > 0) onEvent(name, data.join('\n')); name = 'message'; data = [] }
      else if (line.startsWith('event:')) name = line.slice(6).trim()
      else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''))
    }
  }
}

const silenceMs = 10_000   // an event comes every 2 s

/** The one subscription of the page; it connects again by itself. */
export function useLiveSource(signedIn: boolean): Live {
  const [live, setLive] = useState<Live>({ state: null, connected: false, fault: null })
  useEffect(() => {
    if (!signedIn) { setLive({ state: null, connected: false, fault: null }); return }
    let over = false, timer: ReturnType<typeof setTimeout> | undefined, control = new AbortController()
    const connect = async () => {
      control = new AbortController()
      const mine = control
      let watch = setTimeout(() => mine.abort(), silenceMs)
      let why: Refusal | null = null
      try {
        const answer = await send('GET', '/telemetry/live', { accept: 'text/event-stream', signal: mine.signal })
        await readEvents(answer.body!, (name, data) => {
          clearTimeout(watch)
          watch = setTimeout(() => mine.abort(), silenceMs)
          if (name === 'state' && !over) setLive({ state: JSON.parse(data) as LiveState, connected: true, fault: null })
        })
      } catch (fault) {
        why = fault instanceof Refusal ? fault : null
      }
      clearTimeout(watch)
      if (over) return
      setLive(before => ({ state: before.state, connected: false, fault: why }))
      timer = setTimeout(connect, why?.status === 404 ? 30_000 : 2_000)
    }
    void connect()
    return () => { over = true; clearTimeout(timer); control.abort() }
  }, [signedIn])
  return live
}

// ---- who is looking

export const SessionContext = createContext<Session>({ name: '', role: 'viewer' })
/** Whether the one who is signed in may do what needs this role. The API has the last word. */
export function useMay(role: Role): boolean {
  const rank: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 }
  return rank[useContext(SessionContext).role] >= rank[role]
}
/** Whether a token is for this area. */
export const isFor = (session: Session, area: Area) => session.areas === undefined || session.areas.includes(area)
export const useArea = (area: Area) => isFor(useContext(SessionContext), area)

// ---- the route: #/view?key=value

export interface Route { view: string; args: URLSearchParams }

const readRoute = (): Route => {
  const [path, args] = location.hash.replace(/^#\/?/, '').split('?')
  return { view: path || 'overview', args: new URLSearchParams(args ?? '') }
}

export function useRoute(): Route {
  const [route, setRoute] = useState(readRoute)
  useEffect(() => {
    const onChange = () => setRoute(readRoute())
    addEventListener('hashchange', onChange)
    return () => removeEventListener('hashchange', onChange)
  }, [])
  return route
}

export const linkTo = (view: string, args: Record<string, string | number | undefined> = {}) => {
  const pairs = Object.entries(args).filter(([, value]) => value !== undefined && value !== '').map(([key, value]) => [key, String(value)])
  return `#/${view}${pairs.length > 0 ? '?' + new URLSearchParams(pairs) : ''}`
}

// ---- what this browser remembers; never a token

export function useRemembered<T extends string>(key: string, initial: T): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => { try { return (localStorage.getItem('evenkeel.' + key) as T) ?? initial } catch { return initial } })
  return [value, next => { setValue(next); try { localStorage.setItem('evenkeel.' + key, next) } catch { /* a private window */ } }]
}

// ---- time ranges

export interface Range { id: string; label: string; seconds: number; step: number }

/** At most 180 points each. */
export const ranges: Range[] = [
  { id: '15m', label: '15 min', seconds: 900, step: 10 },
  { id: '1h', label: '1 h', seconds: 3600, step: 60 },
  { id: '6h', label: '6 h', seconds: 21_600, step: 300 },
  { id: '24h', label: '24 h', seconds: 86_400, step: 900 },
  { id: '7d', label: '7 d', seconds: 604_800, step: 7200 },
  { id: '30d', label: '30 d', seconds: 2_592_000, step: 21_600 },
]

/** from, to and step_s of the range that ends now; it moves on by itself. */
export function useWindow(range: Range): { from: string; to: string; step_s: number } {
  const every = Math.max(5, Math.min(60, range.step / 2)) * 1000
  const [now, setNow] = useState(Date.now)
  useEffect(() => {
    setNow(Date.now())
    const timer = setInterval(() => { if (!document.hidden) setNow(Date.now()) }, every)
    return () => clearInterval(timer)
  }, [every])
  const to = Math.ceil(now / 1000 / range.step) * range.step
  return { from: new Date((to - range.seconds) * 1000).toISOString(), to: new Date(to * 1000).toISOString(), step_s: range.step }
}

/** Like useQuery for paths that move with time: the former answer stays until the next one is there. */
export function useMoving<T>(path: string): { data: T | null; fault: Refusal | null; refresh: () => void } {
  const [state, setState] = useState<{ kind: string; data: T | null; fault: Refusal | null }>({ kind: '', data: null, fault: null })
  const [round, setRound] = useState(0)
  const kind = path.replace(/[?&](from|to)=[^&]*/g, '')     // the same question of another time
  useEffect(() => {
    const control = new AbortController()
    get<T>(path, control.signal).then(
      data => setState({ kind, data, fault: null }),
      fault => { if (!control.signal.aborted) setState(before => ({ kind, data: before.kind === kind ? before.data : null, fault: fault instanceof Refusal ? fault : new Refusal(0, 'The answer could not be read', String(fault)) })) })
    return () => control.abort()
  }, [path, round])
  useEffect(() => {
    const timer = setInterval(() => { if (!document.hidden) setRound(n => n + 1) }, 10_000)
    return () => clearInterval(timer)
  }, [])
  return { ...(state.kind === kind ? state : { data: null, fault: null }), refresh: () => setRound(n => n + 1) }
}

// ---- theme

export type Theme = 'auto' | 'light' | 'dark'
export const ThemeContext = createContext<string>('auto')

/** Counts up whenever colours change, by the switch or by the system: canvases draw themselves anew. */
export function useTheme(): [Theme, (theme: Theme) => void, string] {
  const [theme, setTheme] = useRemembered<Theme>('theme', 'auto')
  const [dark, setDark] = useState(() => matchMedia('(prefers-color-scheme: dark)').matches)
  useEffect(() => {
    const media = matchMedia('(prefers-color-scheme: dark)')
    const onChange = () => setDark(media.matches)
    media.addEventListener('change', onChange)
    return () => media.removeEventListener('change', onChange)
  }, [])
  if (theme === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
  return [theme, setTheme, theme === 'auto' ? (dark ? 'dark' : 'light') : theme]
}
