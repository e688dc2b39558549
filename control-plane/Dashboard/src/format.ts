// Numbers and times in words. UTC is what logs and the API speak, local time is what people live in: local it is, with the zone in the title.

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 })

export const count = (value: number | undefined | null) => value == null ? '–' : plain.format(value)
export const figure = (value: number | undefined | null) => value == null ? '–' : value >= 1000 ? plain.format(value) : short.format(value)
export const rate = (value: number | undefined | null) => value == null ? '–' : `${figure(Math.round(value * 10) / 10)}/s`

export function share(value: number | undefined | null): string {
  if (value == null) return '–'
  const percent = value * 100
  return `${percent === 0 ? '0' : percent < 0.1 ? '<0.1' : percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %`
}

export function millis(value: number | undefined | null): string {
  if (value == null) return '–'
  if (value < 1) return `${short.format(value)} ms`
  return value < 1000 ? `${Math.round(value)} ms` : `${short.format(value / 1000)} s`
}

/** Small amounts keep the digits that matter. */
export function money(value: number | string | undefined | null, currency?: string): string {
  if (value == null) return '–'
  const amount = Number(value), size = Math.abs(amount)
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 4 : 6
  const text = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: digits }).format(amount)
  return currency ? `${text} ${currency}` : text
}

export function seconds(value: number): string {
  if (value < 60) return `${Math.max(0, Math.round(value))} s`
  if (value < 3600) return `${Math.round(value / 60)} min`
  if (value < 86400) { const h = Math.floor(value / 3600), m = Math.round(value % 3600 / 60); return m > 0 && m < 60 ? `${h} h ${m} min` : `${h} h` }
  return `${Math.round(value / 86400)} d`
}

export const ago = (at: string, now = Date.now()) => `${seconds(Math.max(0, (now - Date.parse(at)) / 1000))} ago`
export const lasted = (from: string, to: string | undefined, now = Date.now()) => seconds(Math.max(0, ((to ? Math.min(Date.parse(to), now) : now) - Date.parse(from)) / 1000))

const clockOf = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' })
const dayOf = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })
export const clock = (at: string | number) => clockOf.format(new Date(at))
export const moment = (at: string | number) => dayOf.format(new Date(at))
export const utc = (at: string | number) => new Date(at).toISOString().replace('T', ' ').replace(/\.\d+Z/, ' UTC')

export const words = (name: string) => name.replaceAll('_', ' ')

/** The begin of every step of a window, in seconds since 1970: what is left out of an answer is a gap in the picture. */
export function steps(window: { from: string; to: string; step_s: number }): number[] {
  const from = Date.parse(window.from) / 1000, to = Date.parse(window.to) / 1000, list: number[] = []
  for (let at = from; at < to && list.length < 2001; at += window.step_s) list.push(at)
  return list
}
