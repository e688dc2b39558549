// Pools and instances: shown, added, changed, drained, removed. The API judges; its words stand at the fields they are about.
import { useState } from 'preact/hooks'
import type { ComponentChildren } from 'preact'
import { call, Refusal, type Fault, type Instance, type Pool } from '../api'
import { linkTo, useLive, useMay, useQuery, type Route } from '../hooks'
import { count, words } from '../format'
import { Act, Answered, Badge, Dialog, Empty, Page, Panel, Table } from '../ui'
import { LeftOut } from './Nodes'
import { condition } from './Overview'

export function Fleet({ route }: { route: Route }) {
  const instances = useQuery<Instance[]>('/instances'), pools = useQuery<Pool[]>('/pools')
  const live = new Map((useLive().state?.instances ?? []).map(i => [i.name, i]))
  const mayOperate = useMay('operator'), mayEdit = useMay('admin')
  const instance = route.args.get('instance'), pool = route.args.get('pool')
  const close = () => { location.hash = linkTo('fleet'); void instances.refresh(); void pools.refresh() }
  const patch = async (name: string, body: unknown) => { await call('PATCH', `/instances/${encodeURIComponent(name)}`, { body }); await instances.refresh() }
  const chosenInstance = instance === null ? null : instances.data?.find(i => i.name === instance)
  const chosenPool = pool === null ? null : pools.data?.find(p => p.name === pool)
  return (
    <Page title="Pools & instances" lead="A change is live within seconds, as a new revision">
      <LeftOut />
      <Panel title="Instances" tools={mayEdit && <a class="button" href={linkTo('fleet', { add: 'instance' })}>Add an instance</a>}>
        <Answered of={instances} empty={list => list.length === 0 ? <Empty title="There is no instance yet">Add the first one; then make a pool of it.</Empty> : null}>
          {list => <Table caption="Instances" head={['Instance', 'Now', 'Weight', 'Most at once', 'Model', 'Address', '']} numeric={[2, 3]} rows={list.map(i => {
            const now = live.get(i.name), state = now ? condition(now) : !i.enabled ? { tone: 'off' as const, text: 'switched off' } : i.drain ? { tone: 'off' as const, text: 'draining' } : null
            return [
              <><a href={linkTo('fleet', { instance: i.name })}><b>{i.name}</b></a>{i.provider && <span class="note"> {i.provider}</span>}</>,
              state ? <Badge tone={state.tone}>{state.text}</Badge> : '–', count(i.weight), count(i.max_connections), i.model ? <code>{i.model}</code> : 'as asked', <span class="words">{i.base_url}</span>,
              mayOperate && <span class="row tight">
                <Act kind="plain" does={() => patch(i.name, { drain: !i.drain })}>{i.drain ? 'Undrain' : 'Drain'}</Act>
                <Act kind="plain" does={() => patch(i.name, { enabled: !i.enabled })}>{i.enabled ? 'Switch off' : 'Switch on'}</Act>
              </span>,
            ]
          })} />}
        </Answered>
      </Panel>
      <Panel title="Pools" tools={mayEdit && <a class="button" href={linkTo('fleet', { add: 'pool' })}>Add a pool</a>}>
        <Answered of={pools} empty={list => list.length === 0 ? <Empty title="There is no pool yet">A pool gives clients a model name, and has tiers of instances.</Empty> : null}>
          {list => <Table caption="Pools" head={['Pool', 'Models', 'Algorithm', 'Tiers']} rows={list.map(p => [
            <a href={linkTo('fleet', { pool: p.name })}><b>{p.name}</b></a>, p.models.join(', '), words(p.algorithm),
            p.tiers.length === 0 ? 'all instances' : p.tiers.map(t => `${t.name}: ${t.instances.join(', ')}${t.model ? ` as ${t.model}` : ''}`).join(' → '),
          ])} />}
        </Answered>
      </Panel>
      {instance !== null && instances.data && (chosenInstance ? <InstanceDialog key={instance} item={chosenInstance} etag={instances.etag} onClose={close} /> : <Gone noun="instance" name={instance} onClose={close} />)}
      {pool !== null && pools.data && (chosenPool ? <PoolDialog key={pool} item={chosenPool} etag={pools.etag} names={(instances.data ?? []).map(i => i.name)} onClose={close} /> : <Gone noun="pool" name={pool} onClose={close} />)}
      {route.args.get('add') === 'instance' && <InstanceDialog item={null} etag={null} onClose={close} />}
      {route.args.get('add') === 'pool' && <PoolDialog item={null} etag={null} names={(instances.data ?? []).map(i => i.name)} onClose={close} />}
    </Page>
  )
}

const Gone = ({ noun, name, onClose }: { noun: string; name: string; onClose: () => void }) => <Dialog title="Not there" onClose={onClose}><Empty title={`There is no ${noun} ${name}`}>Somebody may have removed it.</Empty></Dialog>

// ---- forms

interface FieldSpec { key: string; label: string; hint?: string; type?: 'number' | 'text' | 'check' | 'list' | 'choice' | 'secret'; options?: readonly (readonly [string, string])[]; needs?: 'admin' }
type Values = Record<string, string>

const instanceFields: FieldSpec[] = [
  { key: 'base_url', label: 'Base URL', hint: 'https://api.deepseek.com/v1', needs: 'admin' },
  { key: 'provider', label: 'Provider', hint: 'a label', needs: 'admin' },
  { key: 'model', label: 'Model there', hint: 'empty: the name the client asked for', needs: 'admin' },
  { key: 'api_key', label: 'API key', hint: 'env:NAME, file:PATH or the key itself; it is never shown again', type: 'secret', needs: 'admin' },
  { key: 'weight', label: 'Weight', type: 'number' },
  { key: 'max_connections', label: 'Most calls at once', type: 'number', needs: 'admin' },
  { key: 'base_latency', label: 'Usual latency', hint: '800ms, 1.5s', needs: 'admin' },
  { key: 'timeouts.first_token', label: 'Time to the first token', hint: '10s', needs: 'admin' },
  { key: 'timeouts.total', label: 'Time for all', hint: '10m', needs: 'admin' },
  { key: 'price.input_per_million', label: 'Price of a million input tokens', type: 'number', needs: 'admin' },
  { key: 'price.output_per_million', label: 'Price of a million output tokens', type: 'number', needs: 'admin' },
  { key: 'enabled', label: 'Enabled', type: 'check' },
  { key: 'drain', label: 'Drain: no new requests, those in flight end in peace', type: 'check' },
]

const poolFields: FieldSpec[] = [
  { key: 'models', label: 'Public model names', hint: 'with commas between', type: 'list' },
  { key: 'algorithm', label: 'Algorithm', type: 'choice', options: [['weighted', 'weighted'], ['least_load', 'least load'], ['round_robin', 'round robin']] },
  { key: 'queue.size', label: 'Most requests that wait', type: 'number' },
  { key: 'queue.timeout', label: 'Longest wait', hint: '2s' },
  { key: 'retry.max_attempts', label: 'Most attempts per request', type: 'number' },
]

const read = (item: unknown, key: string): string => {
  const value = key.split('.').reduce<unknown>((at, part) => (at as Record<string, unknown> | null | undefined)?.[part], item)
  return value === undefined || value === null ? '' : Array.isArray(value) ? value.join(', ') : String(value)
}

/** What the API wants for what was typed: null brings the default back, text that is no number is for the API to refuse. */
function typed(spec: FieldSpec, text: string): unknown {
  if (spec.type === 'check') return text === 'true'
  if (spec.type === 'list') return text.split(',').map(part => part.trim()).filter(part => part !== '')
  if (text.trim() === '') return null
  if (spec.type === 'number') { const number = Number(text); return Number.isFinite(number) ? number : text }
  return text.trim()
}

function bodyOf(specs: FieldSpec[], before: Values, now: Values): Record<string, unknown> {
  const body: Record<string, unknown> = {}
  for (const spec of specs) {
    if (now[spec.key] === before[spec.key]) continue
    const parts = spec.key.split('.'), last = parts.pop()!
    let at = body
    for (const part of parts) at = (at[part] ??= {}) as Record<string, unknown>
    at[last] = typed(spec, now[spec.key] ?? '')
  }
  return body
}

/** "price.input_per_million" is about the field of this name; "models[1]" about models. */
const isAbout = (fault: Fault, key: string) => fault.path === key || fault.path.startsWith(key + '[')

interface FormProps { specs: FieldSpec[]; item: unknown; values: Values; set: (key: string, value: string) => void; faults: Fault[]; mayAll: boolean; mayAny: boolean }

function Fields({ specs, item, values, set, faults, mayAll, mayAny }: FormProps) {
  return <>{specs.map(spec => {
    const mine = faults.filter(f => isAbout(f, spec.key)), id = `f-${spec.key}`, disabled = spec.needs === 'admin' ? !mayAll : !mayAny
    const common = { id, name: spec.key, disabled, 'aria-invalid': mine.length > 0 ? true as const : undefined, 'aria-describedby': mine.length > 0 ? `${id}-fault` : spec.hint ? `${id}-hint` : undefined }
    return (
      <div class={`field ${spec.type === 'check' ? 'check' : ''}`} key={spec.key}>
        {spec.type === 'check'
          ? <label for={id}><input type="checkbox" {...common} checked={values[spec.key] === 'true'} onChange={event => set(spec.key, String(event.currentTarget.checked))} /><span>{spec.label}</span></label>
          : <><label for={id}>{spec.label}</label>
            {spec.type === 'choice'
              ? <select {...common} value={values[spec.key]} onChange={event => set(spec.key, event.currentTarget.value)}>{spec.options!.map(([value, text]) => <option key={value} value={value}>{text}</option>)}</select>
              : spec.type === 'secret'
                ? <input {...common} type="password" autocomplete="off" value={values[spec.key]} placeholder={read(item, spec.key) === '' ? 'none given yet' : 'unchanged'} onInput={event => set(spec.key, event.currentTarget.value)} />
                : <input {...common} autocomplete="off" inputMode={spec.type === 'number' ? 'decimal' : undefined} value={values[spec.key]} onInput={event => set(spec.key, event.currentTarget.value)} />}
            {spec.hint && mine.length === 0 && <span class="hint" id={`${id}-hint`}>{spec.hint}</span>}</>}
        {mine.length > 0 && <span class="refused" id={`${id}-fault`} role="alert">{mine.map(f => f.message).join('; ')}</span>}
      </div>
    )
  })}</>
}

/** The state of one form: its values, what the API said, and whether somebody else wrote meanwhile. */
function useForm(specs: FieldSpec[], item: unknown, onSaved: () => void) {
  const initial: Values = Object.fromEntries(specs.map(spec => [spec.key, spec.type === 'secret' ? '' : item === null ? (spec.key === 'enabled' ? 'true' : spec.key === 'algorithm' ? 'weighted' : '') : read(item, spec.key)]))
  const [before] = useState(initial), [values, setValues] = useState(initial)
  const [fault, setFault] = useState<Refusal | null>(null), [busy, setBusy] = useState(false)
  const submit = async (work: () => Promise<unknown>) => {
    setBusy(true); setFault(null)
    try { await work(); onSaved() } catch (why) { setFault(why instanceof Refusal ? why : new Refusal(0, String(why), '')) } finally { setBusy(false) }
  }
  return { before, values, set: (key: string, value: string) => setValues(v => ({ ...v, [key]: value })), fault, busy, submit, placed: fault?.errors ?? [] }
}

function FormFaults({ fault, shown, onReload }: { fault: Refusal | null; shown: string[]; onReload: () => void }): ComponentChildren {
  if (!fault) return null
  if (fault.status === 412) {
    return <div class="state fault" role="alert"><strong>Somebody changed the configuration meanwhile</strong><p>Nothing was saved, so that nobody's change is lost. Look at what is in force now, then make yours again.</p><button type="button" onClick={onReload}>Show what is in force</button></div>
  }
  const rest = fault.errors.filter(f => !shown.some(key => isAbout(f, key)))
  return <div class="state fault" role="alert"><strong>{fault.title}</strong>{fault.errors.length === 0 && <p>{fault.detail}</p>}{rest.length > 0 && <ul>{rest.map((f, n) => <li key={n}><code>{f.path}</code> {f.message}</li>)}</ul>}</div>
}

function InstanceDialog({ item, etag, onClose }: { item: Instance | null; etag: string | null; onClose: () => void }) {
  const mayOperate = useMay('operator'), mayEdit = useMay('admin')
  const [name, setName] = useState(''), [read] = useState(etag), [removing, setRemoving] = useState(false)
  const form = useForm(instanceFields, item, onClose)
  const path = item ? `/instances/${encodeURIComponent(item.name)}` : '/instances'
  const specs: FieldSpec[] = item ? instanceFields : [{ key: 'name', label: 'Name', needs: 'admin' }, ...instanceFields]
  const save = () => form.submit(() => {
    const body = bodyOf(instanceFields, form.before, form.values)
    return item ? call('PATCH', path, { body, ifMatch: read }) : call('POST', path, { body: { name: name.trim(), ...body } })
  })
  return (
    <Dialog title={item ? `Instance ${item.name}` : 'A new instance'} onClose={onClose} wide>
      <form class="form" data-form="instance" onSubmit={event => { event.preventDefault(); void save() }} noValidate>
        <Fields specs={specs} item={item} values={{ name, ...form.values }} set={(key, value) => key === 'name' ? setName(value) : form.set(key, value)} faults={form.placed} mayAll={mayEdit} mayAny={mayOperate} />
        <FormFaults fault={form.fault} shown={specs.map(s => s.key)} onReload={onClose} />
        <footer class="row">
          {mayOperate && <button class="primary" disabled={form.busy}>{form.busy ? 'Saving …' : 'Save'}</button>}
          <button type="button" onClick={onClose}>{mayOperate ? 'Cancel' : 'Close'}</button>
          {item && mayEdit && (removing
            ? <span class="row tight">Really remove {item.name}? <Act kind="danger" does={async () => { await call('DELETE', path, { ifMatch: read }); onClose() }}>Remove it</Act></span>
            : <button type="button" class="danger" onClick={() => setRemoving(true)}>Remove …</button>)}
        </footer>
      </form>
    </Dialog>
  )
}

function PoolDialog({ item, etag, names, onClose }: { item: Pool | null; etag: string | null; names: string[]; onClose: () => void }) {
  const mayEdit = useMay('admin')
  const [name, setName] = useState(''), [read] = useState(etag), [removing, setRemoving] = useState(false)
  const [tiers, setTiers] = useState<{ name: string; model: string; instances: string[] }[]>((item?.tiers ?? [{ name: 'primary', instances: [] as string[], model: '' }]).map(t => ({ name: t.name, model: t.model ?? '', instances: t.instances })))
  const [touched, setTouched] = useState(item === null)
  const form = useForm(poolFields, item, onClose)
  const path = item ? `/pools/${encodeURIComponent(item.name)}` : '/pools'
  const change = (n: number, to: Partial<(typeof tiers)[number]> | null) => { setTouched(true); setTiers(to === null ? tiers.filter((_, i) => i !== n) : tiers.map((t, i) => i === n ? { ...t, ...to } : t)) }
  const swap = (n: number, m: number) => { setTouched(true); setTiers(tiers.map((t, i) => i === n ? tiers[m]! : i === m ? tiers[n]! : t)) }
  const save = () => form.submit(() => {
    const body = bodyOf(poolFields, form.before, form.values)
    if (touched) body.tiers = tiers.map(t => ({ name: t.name, instances: t.instances, ...(t.model.trim() ? { model: t.model.trim() } : {}) }))
    return item ? call('PATCH', path, { body, ifMatch: read }) : call('POST', path, { body: { name: name.trim(), ...body } })
  })
  const specs: FieldSpec[] = item ? poolFields : [{ key: 'name', label: 'Name' }, ...poolFields]
  return (
    <Dialog title={item ? `Pool ${item.name}` : 'A new pool'} onClose={onClose} wide>
      <form class="form" data-form="pool" onSubmit={event => { event.preventDefault(); void save() }} noValidate>
        <Fields specs={specs} item={item} values={{ name, ...form.values }} set={(key, value) => key === 'name' ? setName(value) : form.set(key, value)} faults={form.placed} mayAll={mayEdit} mayAny={mayEdit} />
        {tiers.map((tier, n) => (
          <fieldset key={n} disabled={!mayEdit}>
            <legend>Tier {n + 1}{n === 0 ? ', asked first' : ''}</legend>
            <div class="field"><label for={`t-${n}-name`}>Name</label><input id={`t-${n}-name`} value={tier.name} onInput={event => change(n, { name: event.currentTarget.value })} /></div>
            <div class="field"><label for={`t-${n}-model`}>Model</label><input id={`t-${n}-model`} value={tier.model} placeholder="each instance's own" onInput={event => change(n, { model: event.currentTarget.value })} /></div>
            <div class="checks" role="group" aria-label={`Instances of tier ${n + 1}`}>{[...new Set([...names, ...tier.instances])].map(i => <label key={i}><input type="checkbox" checked={tier.instances.includes(i)} onChange={event => change(n, { instances: event.currentTarget.checked ? [...tier.instances, i] : tier.instances.filter(x => x !== i) })} />{i}</label>)}</div>
            <div class="row tight">{n > 0 && <button type="button" class="plain" onClick={() => swap(n, n - 1)}>Earlier</button>}{n < tiers.length - 1 && <button type="button" class="plain" onClick={() => swap(n, n + 1)}>Later</button>}<button type="button" class="plain" onClick={() => change(n, null)}>Remove this tier</button></div>
          </fieldset>
        ))}
        {mayEdit && <button type="button" onClick={() => { setTouched(true); setTiers([...tiers, { name: `tier-${tiers.length + 1}`, model: '', instances: [] }]) }}>Add a tier</button>}
        <FormFaults fault={form.fault} shown={specs.map(s => s.key)} onReload={onClose} />
        <footer class="row">
          {mayEdit && <button class="primary" disabled={form.busy}>{form.busy ? 'Saving …' : 'Save'}</button>}
          <button type="button" onClick={onClose}>{mayEdit ? 'Cancel' : 'Close'}</button>
          {item && mayEdit && (removing
            ? <span class="row tight">Really remove {item.name}? <Act kind="danger" does={async () => { await call('DELETE', path, { ifMatch: read }); onClose() }}>Remove it</Act></span>
            : <button type="button" class="danger" onClick={() => setRemoving(true)}>Remove …</button>)}
        </footer>
      </form>
    </Dialog>
  )
}
