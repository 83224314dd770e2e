// Sends events with one official SDK: node send.mjs SDK SCENARIO URL KEY. Prints {"errors": [...]} at the end.
import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const [sdk, scenario, url, key] = process.argv.slice(2)
const USER = 'user-123456'
const errors = []

// What each scenario sends: [event name, properties].
const EVENTS = {
  one: [['Ticket Resolved', { queue: 'card', price: 9.9 }]],
  many: Array.from({ length: 100 }, (_, n) => ['x', { n }]),
  bad: [['good', { n: 1 }], ['bad', { text: 'a\0b' }], ['good', { n: 2 }]],
}[scenario]

const senders = {
  async segment () {
    const { Analytics } = await import('@segment/analytics-node')
    const client = new Analytics({ writeKey: key, host: url, flushAt: 20, flushInterval: 50, maxRetries: 5 })
    client.on('error', (error) => errors.push(String(error.reason ?? error.code)))
    for (const [event, properties] of EVENTS) client.track({ userId: USER, event, properties })
    await client.closeAndFlush({ timeout: 30000 })
  },
  async rudder () {
    const Analytics = require('@rudderstack/rudder-sdk-node')
    const client = new Analytics(key, { dataPlaneUrl: url, flushAt: 20, flushInterval: 50, retryCount: 5,
      logLevel: 'off', errorHandler: (error) => errors.push(String(error)) })
    // flush() sends one batch only; each event's callback tells when it was sent.
    await Promise.all(EVENTS.map(([event, properties]) => new Promise((resolve) =>
      client.track({ userId: USER, event, properties }, resolve))))
  },
  async posthog () {
    const { PostHog } = await import('posthog-node')
    const client = new PostHog(key, { host: url, flushAt: 20, flushInterval: 50, fetchRetryDelay: 100 })
    client.on('error', (error) => errors.push(String(error)))
    for (const [event, properties] of EVENTS) client.capture({ distinctId: USER, event, properties })
    await client.shutdown(30000)
  },
  async cloudevents () {
    const { CloudEvent, HTTP } = require('cloudevents')
    for (const [index, [type, data]] of EVENTS.entries()) {
      const event = new CloudEvent({ id: String(index), type, source: '/web', userid: USER, data })
      const message = index % 2 ? HTTP.structured(event) : HTTP.binary(event)
      const headers = { authorization: `Bearer ${key}`, ...message.headers }
      const body = typeof message.body === 'string' ? message.body : JSON.stringify(message.body)
      let response
      do response = await fetch(`${url}/events`, { method: 'POST', headers, body })
      while (response.status === 503)
      if (response.status !== 200) errors.push((await response.json()).code)
    }
  },
}

await senders[sdk]()
console.log(JSON.stringify({ errors }))
process.exit(0)
