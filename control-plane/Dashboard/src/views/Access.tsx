// Who may use the gateway, who may steer it, and who did what.
import { useState } from 'preact/hooks'
import { areas, call, query, Refusal, type Role } from '../api'
import { useArea, useMay, useQuery } from '../hooks'
import { ago, count, money, moment } from '../format'
import { Act, Answered, Badge, Dialog, Empty, Page, Panel, Select, Table, When } from '../ui'

interface Client {
  name: string; enabled: boolean; expires?: string; models?: string[]; requests_per_minute?: number; tokens_per_minute?: number; max_concurrent?: number
  budget?: { amount: number | string; currency: string; per: string }
}
interface Token { name: string; role: Role; areas?: string[]; created_at: string; created_by: string; expires_at?: string; revoked_at?: string; last_used_at?: string }
interface Entry { id: number; at: string; who: string; role?: string; source?: string; action: string; status?: number; result: string; from_revision?: number; to_revision?: number }

export function Access() {
  const mayAct = useMay('operator'), mayAll = useMay('admin'), ofClients = useArea('clients'), ofAccess = useArea('access')
  const clients = useQuery<Client[]>(ofClients ? '/clients' : null), tokens = useQuery<Token[]>(mayAll && ofAccess ? '/tokens' : null, 30_000)
  const [limit, setLimit] = useState(50), audit = useQuery<Entry[]>(ofAccess ? '/audit' + query({ limit }) : null)
  const [adding, setAdding] = useState<'client' | 'token' | null>(null), [secret, setSecret] = useState<{ of: string; text: string } | null>(null)
  const clientPath = (name: string) => `/clients/${encodeURIComponent(name)}`
  const rotate = async (name: string) => {
    const { data } = await call<{ key: string }>('POST', clientPath(name) + '/rotate', { body: {} })
    setSecret({ of: name, text: data.key }); await clients.refresh()
  }
  return (
    <Page title="Access" lead="Who may use the gateway, who may steer it, and who did what">
      {ofClients && <Panel title="Clients" tools={mayAll && <button type="button" onClick={() => setAdding('client')}>Add a client</button>}>
        <Answered of={clients} empty={list => list.length === 0 ? <Empty title="No client is set up">As long as there is none, whoever reaches the gateway may use it.</Empty> : null}>
          {list => <Table caption="Clients" head={['Client', 'State', 'Models', 'Requests a minute', 'Tokens a minute', 'At once', 'Budget', '']} numeric={[3, 4, 5, 6]} rows={list.map(c => [
            <b>{c.name}</b>, !c.enabled ? <Badge tone="off">switched off</Badge> : c.expires && Date.parse(c.expires) < Date.now() ? <Badge tone="warn">expired</Badge> : <Badge tone="ok">valid</Badge>,
            (c.models ?? []).join(', ') || 'all', count(c.requests_per_minute), count(c.tokens_per_minute), count(c.max_concurrent), c.budget ? `${money(c.budget.amount, c.budget.currency)} a ${c.budget.per}` : '–',
            mayAct && <span class="row tight">
              <Act kind="plain" does={async () => { await call('PATCH', clientPath(c.name), { body: { enabled: !c.enabled } }); await clients.refresh() }}>{c.enabled ? 'Switch off' : 'Switch on'}</Act>
              {mayAll && <Act kind="plain" does={() => rotate(c.name)}>New key</Act>}
            </span>,
          ])} />}
        </Answered>
      </Panel>}
      {mayAll && ofAccess && <Panel title="Administrators" note="beside the token in the file admin-token" tools={<button type="button" onClick={() => setAdding('token')}>Make a token</button>}>
        <Answered of={tokens} empty={list => list.length === 0 ? <Empty title="No other token">Give everybody a token of their own: the audit log then tells them apart.</Empty> : null}>
          {list => <Table caption="Tokens" head={['Name', 'Role', 'Areas', 'State', 'Last used', 'Made', '']} rows={list.map(t => [
            <b>{t.name}</b>, t.role, t.areas?.join(', ') ?? 'all', t.revoked_at ? <Badge tone="off">revoked</Badge> : t.expires_at && Date.parse(t.expires_at) < Date.now() ? <Badge tone="off">expired</Badge> : <Badge tone="ok">valid</Badge>,
            t.last_used_at ? <When at={t.last_used_at}>{ago(t.last_used_at)}</When> : 'never', <When at={t.created_at}>{moment(t.created_at)}</When>,
            !t.revoked_at && <Act kind="plain" does={async () => { await call('DELETE', `/tokens/${encodeURIComponent(t.name)}`); await tokens.refresh() }}>Revoke</Act>,
          ])} />}
        </Answered>
      </Panel>}
      {ofAccess && <Panel title="Who did what">
        <Answered of={audit} empty={list => list.length === 0 ? <Empty title="Nothing was changed yet" /> : null}>
          {list => <>
            <Table caption="Audit log" head={['When', 'Who', 'What', 'Result', 'Revision']} numeric={[4]} rows={list.map(e => [
              <When at={e.at}>{moment(e.at)}</When>, <><b>{e.who}</b> <span class="note">{e.role}</span></>, <code class="words">{e.action}</code>, <Badge tone={e.result === 'done' ? 'ok' : 'bad'}>{e.result}{e.status !== undefined && e.status >= 400 ? ` ${e.status}` : ''}</Badge>,
              e.to_revision === undefined ? '–' : e.from_revision === undefined ? String(e.to_revision) : `${e.from_revision} → ${e.to_revision}`,
            ])} />
            {list.length === limit && limit < 500 && <button type="button" onClick={() => setLimit(limit + 100)}>Show more</button>}
          </>}
        </Answered>
      </Panel>}
      {adding === 'client' && <AddClient onClose={() => setAdding(null)} onMade={(name, key) => { setAdding(null); if (key) setSecret({ of: name, text: key }); void clients.refresh() }} />}
      {adding === 'token' && <AddToken onClose={() => setAdding(null)} onMade={(name, token) => { setAdding(null); setSecret({ of: name, text: token }); void tokens.refresh() }} />}
      {secret && <Dialog title={`For ${secret.of}`} onClose={() => setSecret(null)}><p>Copy it now; it is not shown again.</p><p><code class="words" data-secret>{secret.text}</code></p><button type="button" class="primary" onClick={() => void navigator.clipboard?.writeText(secret.text)}>Copy</button></Dialog>}
    </Page>
  )
}

const wordsOf = (why: unknown) => why instanceof Refusal && why.errors.length > 0 ? why.errors.map(e => `${e.path.replace(/^clients\[\d+\]\.?/, '')} ${e.message}`).join('; ') : (why as Error).message

function AddClient({ onClose, onMade }: { onClose: () => void; onMade: (name: string, key: string | null) => void }) {
  const [name, setName] = useState(''), [models, setModels] = useState(''), [requests, setRequests] = useState(''), [tokens, setTokens] = useState(''), [amount, setAmount] = useState(''), [per, setPer] = useState('month')
  const number = (text: string) => Number.isFinite(Number(text)) ? Number(text) : text
  const add = async () => {
    try {
      const { data } = await call<{ key: string | null }>('POST', '/clients', { body: {
        name: name.trim(), ...(models.trim() && { models: models.split(',').map(m => m.trim()) }), ...(requests && { requests_per_minute: number(requests) }), ...(tokens && { tokens_per_minute: number(tokens) }), ...(amount && { budget: { amount: number(amount), per } }),
      } })
      onMade(name.trim(), data.key)
    } catch (why) { throw new Error(wordsOf(why)) }
  }
  return (
    <Dialog title="A new client" onClose={onClose}>
      <div class="form">
        <label class="field"><span>Name</span><input value={name} onInput={event => setName(event.currentTarget.value)} /></label>
        <label class="field"><span>Models</span><input value={models} placeholder="all" onInput={event => setModels(event.currentTarget.value)} /></label>
        <label class="field"><span>Requests a minute</span><input inputMode="numeric" value={requests} placeholder="no limit" onInput={event => setRequests(event.currentTarget.value)} /></label>
        <label class="field"><span>Tokens a minute</span><input inputMode="numeric" value={tokens} placeholder="no limit" onInput={event => setTokens(event.currentTarget.value)} /></label>
        <label class="field"><span>Budget (USD)</span><input inputMode="decimal" value={amount} placeholder="none" onInput={event => setAmount(event.currentTarget.value)} /></label>
        <Select label="Per" value={per} options={[['month', 'month'], ['day', 'day']]} onChange={setPer} />
        <footer class="row"><Act kind="primary" disabled={name.trim() === ''} does={add}>Add, and make a key</Act><button type="button" onClick={onClose}>Cancel</button></footer>
      </div>
    </Dialog>
  )
}

function AddToken({ onClose, onMade }: { onClose: () => void; onMade: (name: string, token: string) => void }) {
  const [name, setName] = useState(''), [role, setRole] = useState<string>('viewer'), [days, setDays] = useState('90'), [bound, setBound] = useState('')
  const add = async () => {
    const expires = days === '' ? {} : { expires_at: new Date(Date.now() + Number(days) * 86_400_000).toISOString() }
    const { data } = await call<{ token: string }>('POST', '/tokens', { body: { name: name.trim(), role, ...expires, ...(bound.trim() && { areas: bound.split(',').map(a => a.trim()) }) } })
    onMade(name.trim(), data.token)
  }
  return (
    <Dialog title="A new token" onClose={onClose}>
      <div class="form">
        <label class="field"><span>Name</span><input value={name} onInput={event => setName(event.currentTarget.value)} /></label>
        <Select label="Role" value={role} options={[['viewer', 'viewer: sees'], ['operator', 'operator: weight, drain, enable, acknowledge'], ['admin', 'admin: everything']]} onChange={setRole} />
        <label class="field"><span>Areas</span><input value={bound} placeholder="all" aria-describedby="token-areas" onInput={event => setBound(event.currentTarget.value)} /></label>
        <p class="hint" id="token-areas">Commas between: {areas.join(', ')}</p>
        <Select label="Valid for" value={days} options={[['7', '7 days'], ['90', '90 days'], ['365', 'a year'], ['', 'ever']]} onChange={setDays} />
        <footer class="row"><Act kind="primary" disabled={name.trim() === ''} does={add}>Make it</Act><button type="button" onClick={onClose}>Cancel</button></footer>
      </div>
    </Dialog>
  )
}
