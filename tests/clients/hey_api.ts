// One flow with the client that @hey-api/openapi-ts makes; tests/clients/test_clients.py runs it.
import { client } from "./client/client.gen";
import {
  createWebhook, deleteWebhook, listDeliveries, redeliverDelivery, triggerEvent, updateWebhook,
} from "./client";

client.setConfig({ baseUrl: process.env.SERVER!, auth: () => process.env.TOKEN!, throwOnError: true });

function check(holds: boolean, what: unknown): void {
  if (!holds) throw new Error(JSON.stringify(what));
}

async function flow(): Promise<void> {
  const { data: webhook } = await createWebhook<true>({
    body: { name: "Orders", url: "http://127.0.0.1:9/", events: ["project.*"], retryDelay: 7, timeout: 3 },
  });
  const path = { id: webhook.id };
  const { data: changed } = await updateWebhook<true>({ path, body: { name: "Renamed" } });
  check(changed.name === "Renamed" && changed.retryDelay === 7 && changed.timeout === 3, changed);
  const { data: event } = await triggerEvent<true>({
    body: {
      type: "project.deleted",
      data: {
        id: "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71", name: "Website", deletedAt: "2026-11-23T10:30:00.123Z",
      },
    },
  });
  const { data: page } = await listDeliveries<true>({ query: { event: event.id } });
  check(page.results.length === 1 && page.results[0].webhookId === webhook.id, page);
  const { data: redelivery } = await redeliverDelivery<true>({ path: { id: page.results[0].id } });
  check(redelivery.matchedCount === 1, redelivery);
  const { response } = await deleteWebhook<true>({ path });
  check(response.status === 204, response.status);
}

void flow();
