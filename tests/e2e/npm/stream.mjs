// Reads one streamed chat completion with the official client and prints what an application would have of it, as JSON.
// node stream.mjs BASE_URL MODEL PROMPT
import OpenAI from 'openai';

const [baseURL, model, prompt] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'a-clients-own-key', maxRetries: 0 });
const stream = client.chat.completions.stream({
  model, messages: [{ role: 'user', content: prompt }], stream_options: { include_usage: true },
});
let text = '', finishes = 0;
const identities = new Set();
for await (const chunk of stream) {
  identities.add(`${chunk.id} ${chunk.created} ${chunk.model}`);
  for (const choice of chunk.choices) {
    text += choice.delta.content ?? '';
    if (choice.finish_reason) finishes++;
  }
}
const whole = await stream.finalChatCompletion();
console.log(JSON.stringify({
  text, finishes, identities: identities.size, whole: whole.choices[0].message.content, tokens: (await stream.totalUsage()).completion_tokens,
}));
