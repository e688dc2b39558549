// Evenkeel's dashboard: sign-in, navigation, one view per noun.
import './style.css'
import { render, type FunctionComponent } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { onSignedOut, signIn, signOut, whoAmI, Refusal, type Area, type Session } from './api'
import { isFor, LiveContext, linkTo, SessionContext, ThemeContext, useLiveSource, useRoute, useTheme, type Route, type Theme } from './hooks'
import { Choice, FaultNote, Loading } from './ui'
import { Overview } from './views/Overview'
import { Health } from './views/Health'
import { LatencyView } from './views/Latency'
import { ErrorsView } from './views/Errors'
import { CostView } from './views/Cost'
import { Incidents } from './views/Incidents'
import { Traces } from './views/Traces'
import { Access } from './views/Access'
import { Alerts } from './views/Alerts'
import { Ghosts } from './views/Ghosts'
import { Reports } from './views/Reports'
import { Fleet } from './views/Fleet'
import { ConfigView } from './views/Config'
import { Revisions } from './views/Revisions'
import { Nodes } from './views/Nodes'

type View = FunctionComponent<{ route: Route }>
const groups: [string, [string, string, View][]][] = [
  ['See', [['overview', 'Overview', Overview], ['health', 'Health', Health], ['latency', 'Latency', LatencyView], ['errors', 'Errors', ErrorsView], ['cost', 'Cost', CostView]]],
  ['Understand', [['incidents', 'Incidents', Incidents], ['traces', 'Requests', Traces], ['alerts', 'Alerts', Alerts], ['ghosts', 'Ghosts', Ghosts], ['reports', 'Reports', Reports]]],
  ['Change', [['fleet', 'Pools & instances', Fleet], ['config', 'Configuration', ConfigView], ['revisions', 'Revisions', Revisions], ['nodes', 'Nodes', Nodes], ['access', 'Access', Access]]],
]
const views = groups.flatMap(([, entries]) => entries)
// What a view is of no use without; telemetry for those that are not named.
const needed: Record<string, Area[]> = { incidents: ['incidents'], alerts: ['alerts'], ghosts: ['ghosts'], fleet: ['config'], config: ['config'], revisions: ['config'], nodes: ['nodes'], access: ['access', 'clients'] }
const isOpen = (session: Session, view: string) => (needed[view] ?? ['telemetry']).some(area => isFor(session, area))

function App() {
  const [session, setSession] = useState<Session | null | undefined>(undefined)
  const [fault, setFault] = useState<Refusal | null>(null)
  const [theme, setTheme, shownTheme] = useTheme()
  const ask = () => { setFault(null); whoAmI().then(setSession, why => setFault(why as Refusal)) }
  useEffect(() => { ask(); return onSignedOut(() => setSession(null)) }, [])
  const live = useLiveSource(session != null && isFor(session, 'telemetry'))

  if (session === undefined) return <main class="alone">{fault ? <FaultNote fault={fault} retry={ask} /> : <Loading />}</main>
  if (session === null) return <SignIn onSignedIn={setSession} />
  return (
    <ThemeContext.Provider value={shownTheme}>
      <SessionContext.Provider value={session}>
        <LiveContext.Provider value={live}>
          <Shell session={session} theme={theme} setTheme={setTheme} leave={async () => { await signOut().catch(() => undefined); setSession(null) }} />
        </LiveContext.Provider>
      </SessionContext.Provider>
    </ThemeContext.Provider>
  )
}

function Shell({ session, theme, setTheme, leave }: { session: Session; theme: Theme; setTheme: (theme: Theme) => void; leave: () => Promise<void> }) {
  const route = useRoute()
  const open = views.filter(([id]) => isOpen(session, id))
  const [, title, Shown] = open.find(([id]) => id === route.view) ?? open[0]!
  return (
    <LiveContext.Consumer>{live => (
      <div class="shell">
        <a class="skip" href="#content" onClick={event => { event.preventDefault(); document.getElementById('content')?.focus() }}>Skip to the content</a>
        <nav aria-label="Views">
          <a class="brand" href={linkTo('overview')}><img src="icon.svg" alt="" width="28" height="28" /><span>Evenkeel</span></a>
          <div class="nav-groups">
            {groups.filter(([, entries]) => entries.some(entry => open.includes(entry))).map(([name, entries]) => (
              <div class="nav-group" key={name}>
                <span class="nav-title">{name}</span>
                {entries.filter(entry => open.includes(entry)).map(([id, text]) => <a key={id} href={linkTo(id)} aria-current={text === title ? 'page' : undefined}>{text}{id === 'incidents' && (live.state?.open_incidents ?? 0) > 0 && <b class="pill" aria-label={`${live.state!.open_incidents} open`}>{live.state!.open_incidents}</b>}</a>)}
              </div>
            ))}
          </div>
          <div class="nav-foot">
            <span class={`pulse ${live.connected ? 'on' : ''}`} role="status">{live.connected ? 'live' : live.fault?.status === 404 || !isFor(session, 'telemetry') ? 'no live numbers' : 'connecting …'}</span>
            <Choice<Theme> label="Colours" value={theme} options={[['auto', 'Auto'], ['light', 'Light'], ['dark', 'Dark']]} onChange={setTheme} />
            <div class="who"><span title={`signed in as ${session.name}, role ${session.role}${session.areas ? `, bound to ${session.areas.join(', ')}` : ''}`}>{session.name} · {session.role}</span><button type="button" class="plain" onClick={() => void leave()}>Sign out</button></div>
          </div>
        </nav>
        <main id="content" tabIndex={-1} data-view={route.view}>
          {!live.connected && live.state && <p class="stale" role="status">The live connection is gone; it is tried again every 2 s. What you see is of {new Date(live.state.at).toLocaleTimeString('en-GB')}.</p>}
          <Shown route={route} key={title} />
        </main>
      </div>
    )}</LiveContext.Consumer>
  )
}

function SignIn({ onSignedIn }: { onSignedIn: (session: Session) => void }) {
  const [token, setToken] = useState(''), [busy, setBusy] = useState(false), [fault, setFault] = useState<string | null>(null)
  useEffect(() => { document.title = 'Sign in · Evenkeel' }, [])
  const submit = async (event: Event) => {
    event.preventDefault()
    setBusy(true); setFault(null)
    try { onSignedIn(await signIn(token.trim())) } catch (why) {
      setFault(why instanceof Refusal && why.status === 401 ? 'This token is not known, or no longer valid.' : (why as Error).message)
      setBusy(false)
    }
  }
  return (
    <main class="alone">
      <form class="panel sign-in" onSubmit={event => void submit(event)}>
        <img src="icon.svg" alt="" width="44" height="44" /><h1>Evenkeel</h1>
        <label class="field"><span>Token</span>
          <input type="password" name="token" autocomplete="current-password" required autofocus value={token} aria-invalid={fault ? true : undefined} aria-describedby="token-hint" onInput={event => setToken(event.currentTarget.value)} /></label>
        {fault && <p class="refused" role="alert">{fault}</p>}
        <button class="primary" disabled={busy}>{busy ? 'Signing in …' : 'Sign in'}</button>
        <p class="hint" id="token-hint">The administrator's token lies in the file <code>admin-token</code> of the state directory (<code>.evenkeel/</code>).</p>
      </form>
    </main>
  )
}

render(<App />, document.getElementById('app')!)
