// The whole configuration as a text: read, checked, published.
import { useEffect, useState } from 'preact/hooks'
import { call, Refusal, type Fault } from '../api'
import { linkTo, useMay } from '../hooks'
import { FaultNote, Loading, Page, Panel } from '../ui'

interface Change { revision: number; changed: boolean; reload: boolean }
const yaml = 'application/yaml'

export function ConfigView() {
  const mayEdit = useMay('admin')
  const [read, setRead] = useState<{ text: string; etag: string | null } | null>(null), [text, setText] = useState(''), [message, setMessage] = useState('')
  const [fault, setFault] = useState<Refusal | null>(null), [errors, setErrors] = useState<Fault[] | null>(null), [done, setDone] = useState<Change | null>(null), [busy, setBusy] = useState(false)
  const load = async () => {
    setFault(null); setErrors(null)
    try {
      const { data, etag } = await call<string>('GET', '/config', { accept: yaml })
      setRead({ text: data, etag }); setText(data)
    } catch (why) { setFault(why as Refusal) }
  }
  useEffect(() => { void load() }, [])
  const run = async (work: () => Promise<void>) => {
    setBusy(true); setFault(null); setErrors(null); setDone(null)
    try { await work() } catch (why) { const refusal = why as Refusal; if (refusal.errors?.length > 0) setErrors(refusal.errors); else setFault(refusal) } finally { setBusy(false) }
  }
  const check = () => run(async () => { setErrors((await call<{ errors: Fault[] }>('POST', '/config/validate', { text, type: yaml })).data.errors) })
  const publish = () => run(async () => {
    const { data } = await call<Change>('PUT', '/config' + (message.trim() ? `?message=${encodeURIComponent(message.trim())}` : ''), { text, type: yaml, ifMatch: read?.etag })
    setDone(data); setMessage('')
    const now = await call<string>('GET', '/config', { accept: yaml })
    setRead({ text: now.data, etag: now.etag }); setText(now.data)
  })
  const changed = read !== null && text !== read.text
  return (
    <Page title="Configuration" lead={read?.etag ? <>As of revision {read.etag.replaceAll('"', '')}; secrets are references</> : undefined}>
      <Panel>
        {read === null ? fault ? <FaultNote fault={fault} retry={() => void load()} /> : <Loading /> : <>
          <label class="field"><span class="hidden">The configuration as YAML</span>
            <textarea class="code" spellcheck={false} rows={28} readOnly={!mayEdit} value={text} aria-invalid={errors && errors.length > 0 ? true : undefined} onInput={event => { setText(event.currentTarget.value); setDone(null) }} /></label>
          {errors && (errors.length === 0 ? <p class="good" role="status">It can be published as it is.</p>
            : <div class="state fault" role="alert"><strong>{errors.length === 1 ? 'One fault' : `${errors.length} faults`}; nothing was changed</strong><ul>{errors.map((f, n) => <li key={n}><code>{f.path || 'document'}</code> {f.message}</li>)}</ul></div>)}
          {fault && (fault.status === 412
            ? <div class="state fault" role="alert"><strong>Somebody changed the configuration meanwhile</strong><p>Nothing was saved. Keep your text elsewhere, load what is in force, and make your change again.</p><button type="button" onClick={() => void load()}>Load what is in force</button></div>
            : <FaultNote fault={fault} />)}
          {done && <p class="good" role="status">{done.changed ? <>Revision <a href={linkTo('revisions', { number: done.revision })}>{done.revision}</a> is published; {done.reload ? 'the nodes reload.' : 'no reload is needed.'}</> : 'Nothing differs from what is in force.'}</p>}
          {mayEdit && <div class="row">
            <label class="field inline grow"><span>Why</span><input value={message} maxLength={2000} placeholder="kept with the revision" onInput={event => setMessage(event.currentTarget.value)} /></label>
            <button type="button" disabled={busy} onClick={() => void check()}>Check</button>
            <button type="button" class="primary" disabled={busy || !changed} onClick={() => void publish()}>Publish</button>
            {changed && <button type="button" onClick={() => { setText(read.text); setErrors(null) }}>Undo</button>}
          </div>}
        </>}
      </Panel>
    </Page>
  )
}
