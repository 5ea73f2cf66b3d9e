// One flow with the TypeScript client that openapi-generator makes; tests/clients/test_clients.py runs it.
import { Configuration, DeliveriesApi, EventsApi, WebhooksApi } from "./client";

const settings = new Configuration({ basePath: process.env.SERVER!, accessToken: process.env.TOKEN! });

function check(holds: boolean, what: unknown): void {
  if (!holds) throw new Error(JSON.stringify(what));
}

async function flow(): Promise<void> {
  const webhooks = new WebhooksApi(settings);
  const deliveries = new DeliveriesApi(settings);
  const { id } = await webhooks.createWebhook({
    createWebhookInput: {
      name: "Orders", url: "http://127.0.0.1:9/", events: ["project.*"], retryDelay: 7, timeout: 3,
    },
  });
  const changed = await webhooks.updateWebhook({ id, webhookChanges: { name: "Renamed" } });
  check(changed.name === "Renamed" && changed.retryDelay === 7 && changed.timeout === 3, changed);
  const event = await new EventsApi(settings).triggerEvent({
    newEventInput: {
      type: "project.deleted",
      data: {
        id: "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71", name: "Website", deletedAt: "2026-11-23T10:30:00.123Z",
      },
    },
  });
  const page = await deliveries.listDeliveries({ event: event.id });
  check(page.results.length === 1 && page.results[0].webhookId === id, page);
  const redelivery = await deliveries.redeliverDelivery({ id: page.results[0].id });
  check(redelivery.matchedCount === 1, redelivery);
  const { raw } = await webhooks.deleteWebhookRaw({ id });
  check(raw.status === 204, raw.status);
}

void flow();
