// Runs the official TypeScript SDK against the gateway named by OPENROUTER_BASE_URL and OPENROUTER_API_KEY, as an existing
// application would be pointed at it, and prints what came back as one JSON object. The Python test reads it.
import { OpenRouter } from "@openrouter/sdk";

const client = new OpenRouter({ serverURL: process.env.OPENROUTER_BASE_URL, apiKey: process.env.OPENROUTER_API_KEY });
const messages = [{ role: "user", content: "Столица Перу?" }];
const found = { chats: {}, streams: {}, endpoints: {}, embeddings: {}, errors: {} };

async function streamed(chatRequest) {
  const stream = await client.chat.send({ chatRequest: { ...chatRequest, stream: true } });
  const seen = { text: "", finish: [], usage: null, error: null };
  for await (const chunk of stream) {
    for (const choice of chunk.choices) {
      seen.text += choice.delta.content ?? "";
      if (choice.finishReason) seen.finish.push(choice.finishReason);
    }
    seen.usage = chunk.usage ?? seen.usage;
    seen.error = chunk.error ?? seen.error;
  }
  return seen;
}

async function refusal(ask) {
  try {
    await ask();
    return null;
  } catch (error) {
    return { name: error.name, status: error.statusCode, code: error.error?.code };
  }
}

for (const model of process.env.CHAT_MODELS.split(",")) {
  const answer = await client.chat.send({ chatRequest: { model, messages } });
  found.chats[model] = { model: answer.model, text: answer.choices[0].message.content, total: answer.usage.totalTokens };
  found.streams[model] = await streamed({ model, messages });
  const [author, slug] = model.split("/");
  found.endpoints[model] = (await client.endpoints.list({ author, slug })).data.endpoints.length;
}
for (const model of process.env.EMBEDDING_MODELS.split(",")) {
  const answer = await client.embeddings.generate({ requestBody: { model, input: ["кошка", "собака"] } });
  found.embeddings[model] = answer.data.map((item) => item.index);
}
found.models = [];
for await (const page of await client.models.list({ limit: 5 })) found.models.push(...page.result.data.map((m) => m.id));
found.providers = (await client.providers.list()).data.map((provider) => provider.slug);
found.cut = await streamed({
  model: "gigachat/max",
  messages: [{ role: "user", content: "[[emu:cut=4]] расскажи о Перу" }],
});
found.errors.unknown = await refusal(() => client.chat.send({ chatRequest: { model: "no/such", messages } }));
found.errors.wrong = await refusal(() =>
  client.chat.send({ chatRequest: { model: "local/large", messages, temperature: 9 } }),
);
const stranger = new OpenRouter({ serverURL: process.env.OPENROUTER_BASE_URL, apiKey: "xr-default-wrong" });
found.errors.key = await refusal(() => stranger.chat.send({ chatRequest: { model: "local/large", messages } }));
console.log(JSON.stringify(found));
