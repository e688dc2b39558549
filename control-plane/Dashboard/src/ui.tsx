// The pieces that every view is made of.
import type { ComponentChildren, JSX } from 'preact'
import { useEffect, useId, useRef, useState } from 'preact/hooks'
import type { Refusal } from './api'
import { ranges, useRemembered, type Range } from './hooks'
import { utc } from './format'

export function Page({ title, lead, tools, children }: { title: string; lead?: ComponentChildren; tools?: ComponentChildren; children: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null)
  useEffect(() => { document.title = `${title} · Evenkeel`; heading.current?.focus({ preventScroll: true }) }, [title])
  return (
    <>
      <header class="page-head">
        <div><h1 tabIndex={-1} ref={heading}>{title}</h1>{lead && <p class="lead">{lead}</p>}</div>
        {tools && <div class="tools">{tools}</div>}
      </header>
      {children}
    </>
  )
}

export function Panel({ title, note, tools, children, id }: { title?: string; note?: ComponentChildren; tools?: ComponentChildren; children: ComponentChildren; id?: string }) {
  const label = useId()
  return (
    <section class="panel" aria-labelledby={title ? label : undefined} id={id}>
      {(title || tools) && <div class="panel-head">{title && <h2 id={label}>{title}</h2>}{note && <span class="note">{note}</span>}{tools && <div class="tools">{tools}</div>}</div>}
      {children}
    </section>
  )
}

/** Says what is wrong and what to do about it. */
export function FaultNote({ fault, retry }: { fault: Refusal; retry?: () => void }) {
  const advice = fault.status === 0 ? 'Check that it runs: ./evenkeel status.'
    : fault.status === 403 ? 'Sign in with a token of a higher role.'
    : fault.status === 404 ? 'This control plane does not offer it; a newer release may.'
    : fault.status === 503 ? 'The database is away; the page goes on by itself when it is back.'
    : fault.status >= 500 ? 'See ./evenkeel logs control-plane.' : ''
  return (
    <div class="state fault" role="alert">
      <strong>{fault.title}</strong>
      <p>{fault.detail !== fault.title && fault.detail} {advice}</p>
      {retry && <button type="button" onClick={retry}>Try again</button>}
    </div>
  )
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="state empty"><strong>{title}</strong>{children && <p>{children}</p>}</div>
}

export const Loading = () => <div class="state loading" role="status"><span class="bar" /><span class="bar" /><span class="bar" /><span class="hidden">Loading…</span></div>

/** One of: loading, fault, empty, content. A fault beside older content is told above it. */
export function Answered<T>({ of, empty, children }: {
  of: { data: T | null; fault: Refusal | null; refresh: () => unknown }; empty?: (data: T) => ComponentChildren | null; children: (data: T) => ComponentChildren
}) {
  if (of.data === null) return of.fault ? <FaultNote fault={of.fault} retry={() => void of.refresh()} /> : <Loading />
  const nothing = empty?.(of.data)
  return <>{of.fault && <p class="stale" role="status">Not the newest: {of.fault.detail || of.fault.title}</p>}{nothing ?? children(of.data)}</>
}

export const When = ({ at, children }: { at: string; children: ComponentChildren }) => <time dateTime={at} title={utc(at)}>{children}</time>

export function Choice<T extends string>({ label, value, options, onChange }: { label: string; value: T; options: readonly (readonly [T, string])[]; onChange: (value: T) => void }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([id, text]) => <button type="button" key={id} aria-pressed={id === value} onClick={() => onChange(id)}>{text}</button>)}
    </div>
  )
}

export function Select({ label, value, options, onChange }: { label: string; value: string; options: readonly (readonly [string, string])[]; onChange: (value: string) => void }) {
  return (
    <label class="field inline"><span>{label}</span>
      <select value={value} onChange={event => onChange(event.currentTarget.value)}>{options.map(([id, text]) => <option key={id} value={id}>{text}</option>)}</select>
    </label>
  )
}

/** The time range that all charts share, and its switch. */
export function useRange(): [Range, JSX.Element] {
  const [id, setId] = useRemembered<string>('range', '15m')
  const range = ranges.find(r => r.id === id) ?? ranges[1]!
  return [range, <Choice<string> label="Time range" value={range.id} options={ranges.map(r => [r.id, r.label] as const)} onChange={setId} />]
}

export function Badge({ tone, children }: { tone: 'ok' | 'warn' | 'bad' | 'off' | 'info'; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>
}

export function Dialog({ title, onClose, children, wide }: { title: string; onClose: () => void; children: ComponentChildren; wide?: boolean }) {
  const dialog = useRef<HTMLDialogElement>(null), label = useId()
  useEffect(() => {
    const from = document.activeElement as HTMLElement | null
    dialog.current?.showModal()
    return () => from?.focus?.()
  }, [])
  return (
    <dialog ref={dialog} aria-labelledby={label} class={wide ? 'wide' : ''} onClose={onClose} onClick={event => { if (event.target === dialog.current) onClose() }}>
      <div class="dialog-body">
        <header><h2 id={label}>{title}</h2><button type="button" class="plain" aria-label="Close" onClick={onClose}>✕</button></header>
        {children}
      </div>
    </dialog>
  )
}

/** A button whose work may be refused: it says so beside itself, and is busy meanwhile. */
export function Act({ children, does, kind, disabled }: { children: ComponentChildren; does: () => Promise<unknown>; kind?: 'primary' | 'danger' | 'plain'; disabled?: boolean }) {
  const [busy, setBusy] = useState(false), [fault, setFault] = useState<string | null>(null)
  const run = async () => {
    setBusy(true); setFault(null)
    try { await does() } catch (why) { setFault((why as Error).message) } finally { setBusy(false) }
  }
  return <span class="act"><button type="button" class={kind ?? ''} disabled={busy || disabled} aria-busy={busy} onClick={() => void run()}>{children}</button>{fault && <span class="refused" role="alert">{fault}</span>}</span>
}

export function Table({ caption, head, rows, numeric = [] }: { caption: string; head: string[]; rows: ComponentChildren[][]; numeric?: number[] }) {
  return (
    <div class="table" tabIndex={0} role="region" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead><tr>{head.map((text, i) => <th scope="col" key={i} class={numeric.includes(i) ? 'number' : ''}>{text}</th>)}</tr></thead>
        <tbody>{rows.map((row, r) => <tr key={r}>{row.map((cell, i) => <td key={i} data-label={head[i]} class={numeric.includes(i) ? 'number' : ''}>{cell}</td>)}</tr>)}</tbody>
      </table>
    </div>
  )
}

/** The numbers behind a picture, for those who cannot see it or want to copy them. */
export function Numbers({ children }: { children: () => ComponentChildren }) {
  const [open, setOpen] = useState(false)
  return <details class="numbers" onToggle={event => setOpen(event.currentTarget.open)}><summary>The numbers</summary>{open && children()}</details>
}

export function Stat({ label, value, tone, href, title }: { label: string; value: ComponentChildren; tone?: string; href?: string; title?: string }) {
  const body = <><span class="stat-label">{label}</span><span class={`stat-value ${tone ?? ''}`}>{value}</span></>
  return href ? <a class="stat" href={href} title={title}>{body}</a> : <div class="stat" title={title}>{body}</div>
}
