// Colours by meaning. Outcomes use a palette that people who confuse red and green can read (after Okabe and Ito);
// rate limiting is amber, server errors are magenta-red, time-outs are blue: 429 and 5xx never look alike.

export const outcomes = [
  'ok', 'rate_limited', 'quota', 'auth', 'server_error', 'bad_gateway', 'timeout_first_token', 'stalled', 'truncated', 'empty',
  'saturated', 'circuit_open', 'context_length', 'content_filter', 'client_error', 'client_gone',
] as const

/** A CSS variable's colour as the page has it now, for canvases. */
export function cssColor(name: string): string {
  const probe = document.createElement('span')
  probe.style.color = `var(--${name})`
  document.body.append(probe)
  const color = getComputedStyle(probe).color
  probe.remove()
  return color
}

export const outcomeColor = (outcome: string) => `o-${outcome.replaceAll('_', '-')}`
