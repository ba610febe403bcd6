// The official TypeScript SDKs as clients. Settings and the table of calls come on stdin as JSON; every check goes to
// stdout as a line of JSON. Version 1 of the SDK (package sdk) and version 2 (package client) do the same here.

import { setTimeout as sleep } from "node:timers/promises";
import { text } from "node:stream/consumers";

const settings = JSON.parse(await text(process.stdin));
const { run, table } = settings;
const WAIT_SECONDS = 40;
const PROMPT_MILLISECONDS = 10_000;

const check = (good, what, seen) => {
  process.stdout.write(`${JSON.stringify({ good: Boolean(good), what, seen: good ? undefined : seen })}\n`);
  return Boolean(good);
};

const described = (error) => ({ name: error.name, code: error.code, message: error.message });

/** A client of either version behind the same few methods, with every call on the wire. */
const sdks = {
  v1: async () => {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
    const { StreamableHTTPClientTransport } = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
    return {
      StdioClientTransport,
      StreamableHTTPClientTransport,
      client: (info) => new Client(info, { capabilities: {} }),
      call: (client, params, options) => client.callTool(params, undefined, options),
      revision: (client, transport) => transport.protocolVersion,
    };
  },
  v2: async () => {
    const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
    const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
    const options = {
      auto: { versionNegotiation: { mode: "auto" } },
      legacy: {},
    }[settings.mode] ?? { supportedProtocolVersions: [settings.mode] };
    return {
      StdioClientTransport,
      StreamableHTTPClientTransport,
      client: (info) => new Client(info, { capabilities: {}, ...options }),
      call: (client, params, callOptions) => client.callTool(params, callOptions),
      revision: (client) => client.getNegotiatedProtocolVersion(),
    };
  },
};

const sdk = await sdks[settings.sdk]();

const connect = async (peer) => {
  const transport = peer.url
    ? new sdk.StreamableHTTPClientTransport(new URL(peer.url), {
        requestInit: { headers: { Authorization: `Bearer ${peer.key}` } },
      })
    : new sdk.StdioClientTransport({ command: peer.command, args: peer.args, env: peer.env, stderr: "ignore" });
  const client = sdk.client({ name: "portreeve-clients", version: "0.0.0" });
  await client.connect(transport);
  return { client, transport };
};

const close = async ({ client, transport }) => {
  await transport.terminateSession?.();
  await client.close();
};

/** A value of the table with what stands for something else replaced, as `resolve` in cases.py does it. */
const resolve = (value, kept) => {
  if (typeof value === "string") {
    if (/^<.*>$/.test(value)) {
      const name = value.slice(1, -1);
      if (!(name in kept)) throw new Error(`"${name}" was not answered earlier`);
      return kept[name];
    }
    return value.replaceAll("{run}", run);
  }
  if (Array.isArray(value)) return value.map((inner) => resolve(inner, kept));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, resolve(inner, kept)]));
};

const same = (one, other) => {
  const sorted = (_, value) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value;
  return JSON.stringify(one, sorted) === JSON.stringify(other, sorted);
};

const wrongAnswers = (wanted, structured) =>
  Object.entries(wanted)
    .filter(([name, value]) => !same(structured[name], value))
    .map(([name, value]) => `${name} should be ${JSON.stringify(value)} and is ${JSON.stringify(structured[name])}`);

const checkSame = (what, listed, wanted) => {
  const missing = wanted.filter((name) => !listed.includes(name));
  const unknown = listed.filter((name) => !wanted.includes(name));
  check(missing.length === 0, `${what} that the table calls are listed; missing: ${missing}`);
  check(unknown.length === 0, `${what} that are listed are called; not in the table: ${unknown}`);
};

const callTools = async (client) => {
  const { tools } = await client.listTools();
  const names = tools.map((tool) => tool.name);
  checkSame("tools", names, table.tools);
  for (const tool of tools) {
    check(tool.description && tool.inputSchema && tool.outputSchema, `tool ${tool.name} is described`, tool);
    const reads = table.readOnly.includes(tool.name);
    check(tool.annotations?.readOnlyHint === reads, `readOnlyHint of ${tool.name} is ${reads}`, tool.annotations);
  }
  const kept = {};
  for (const row of table.cases.filter(({ tool }) => names.includes(tool))) {
    try {
      const args = resolve(row.arguments, kept);
      // The SDK throws if the structured content is not what the output schema says.
      const result = await sdk.call(client, { name: row.tool, arguments: args });
      const structured = result.structuredContent;
      check(!result.isError && structured, `${row.tool}(${JSON.stringify(args)}) succeeds`, result);
      const wrong = wrongAnswers(resolve(row.answers, kept), structured ?? {});
      check(wrong.length === 0, `${row.tool}(${JSON.stringify(args)}): ${wrong.join("; ")}`, structured);
      for (const [name, key] of Object.entries(row.keep)) if (structured?.[key] != null) kept[name] = structured[key];
    } catch (error) {
      check(false, `${row.tool} is answered as its schema says`, described(error));
    }
  }
};

const read = async (client) => {
  const { resources } = await client.listResources();
  checkSame("resources", resources.map(({ uri }) => uri), table.resources);
  for (const { uri } of resources) {
    const { contents } = await client.readResource({ uri });
    const good = contents.length > 0 && contents.every((part) => part.uri === uri && part.text);
    check(good && contents.every((part) => part.mimeType === "text/markdown"), `${uri} is read as Markdown`, contents);
  }
  await client.listResourceTemplates();
  const { prompts } = await client.listPrompts();
  checkSame("prompts", prompts.map(({ name }) => name), Object.keys(table.prompts));
  for (const { name } of prompts.filter((prompt) => prompt.name in table.prompts)) {
    const args = table.prompts[name];
    const { messages } = await client.getPrompt({ name, arguments: args });
    const whole = JSON.stringify(messages);
    const good = messages.length > 0 && Object.values(args).every((value) => whole.includes(value));
    check(good, `prompt ${name} holds its arguments`, messages);
  }
};

const rejected = async (what, promise) => {
  try {
    check(false, `${what} is refused`, await promise);
  } catch (error) {
    check([-32602, -32601, -32002].includes(error.code), `${what} is refused with a fitting code`, described(error));
  }
};

const badCalls = async (client) => {
  const result = await sdk.call(client, { name: table.incomplete.tool, arguments: table.incomplete.arguments });
  const wrong = wrongAnswers(table.incomplete.answers, result.structuredContent ?? {});
  check(result.isError && wrong.length === 0, `a call without a required argument is an error ${wrong}`, result);
  await rejected("an unknown tool", sdk.call(client, { name: "no_such_tool", arguments: {} }));
  await rejected("an unknown resource", client.readResource({ uri: "locks://no-such-resource" }));
  await rejected("an unknown prompt", client.getPrompt({ name: "no_such_prompt" }));
};

const holder = async (method, path, body) => {
  const headers = { authorization: `Bearer ${settings.holderKey}`, "content-type": "application/json" };
  const answer = await fetch(settings.url + path, { method, headers, body: body && JSON.stringify(body) });
  return answer.json();
};

const abandon = async (client, name, args) => {
  const abort = new AbortController();
  const began = performance.now();
  const call = sdk.call(client, { name, arguments: args }, { signal: abort.signal });
  const timer = setTimeout(() => abort.abort("not wanted any more"), 1000);
  try {
    check(false, `${name}(${JSON.stringify(args)}) waits`, await call);
  } catch (error) {
    const soon = performance.now() - began < PROMPT_MILLISECONDS;
    check(abort.signal.aborted && soon, `${name} is cancelled at once`, described(error));
  }
  clearTimeout(timer);
  const result = await sdk.call(client, { name: "get_my_profile", arguments: {} });
  check(!result.isError, `the connection lives on after ${name} is cancelled`, result);
};

/** A cancelled wait is over on the server as well: what comes later goes to nobody. */
const cancel = async (client) => {
  const file_path = `src/${run}/cancelled.rs`;
  const held = await holder("POST", "/locks/acquire", { file_path });
  check(held.success, "another agent holds a lock", held);
  await abandon(client, "acquire_lock", { file_path, wait_seconds: WAIT_SECONDS });
  await holder("POST", "/locks/release", { file_path });
  const task_type = `cancelled-${run}`;
  await abandon(client, "get_work", { task_types: [task_type], wait_seconds: WAIT_SECONDS });
  const { task_id } = await holder("POST", "/work/submit", { task_type, task_description: "for nobody" });
  await sleep(1500);
  const lock = await holder("GET", `/locks/status/${file_path}`);
  check(lock.locked === false, "a cancelled wait takes no lock", lock);
  const task = await holder("POST", "/work/get", { task_id });
  check(task.task?.status === "pending", "a cancelled wait claims no task", task);
};

/** A call that waits tells so, if the client asks to be told. */
const progress = async (client) => {
  const file_path = `src/${run}/progress.rs`;
  await holder("POST", "/locks/acquire", { file_path });
  const seen = [];
  const options = { onprogress: ({ progress: done }) => seen.push(done) };
  const params = { name: "acquire_lock", arguments: { file_path, wait_seconds: 3 } };
  const result = await sdk.call(client, params, options);
  check(result.structuredContent?.action === "blocked", "a wait in vain ends as blocked", result);
  check(seen.length > 0, "a waiting call with a progress token reports progress");
  check(seen.every((done, at) => at === 0 || done > seen[at - 1]), "progress only grows", seen);
};

const beDenied = async (client) => {
  const { tool, answers } = table.denied;
  const args = resolve(table.denied.arguments, {});
  const result = await sdk.call(client, { name: tool, arguments: args });
  const structured = result.structuredContent ?? {};
  const wrong = wrongAnswers(answers, structured);
  check(result.isError && wrong.length === 0, `a reader is denied ${tool} ${wrong}`, result);
  check(structured.remedy && structured.decision_id, "a denial has a remedy and names its decision", structured);
};

const tester = await connect(settings.tester);
const revision = sdk.revision(tester.client, tester.transport);
// Version 1 tells the revision over HTTP only.
if (revision !== undefined || settings.sdk !== "v1") check(revision === settings.revision, "the revision", revision);
const info = tester.client.getServerVersion();
check(info?.name && info?.version, "the server tells who it is", info);
await callTools(tester.client);
await read(tester.client);
if (settings.mode !== "auto") check(await tester.client.ping(), "ping is answered");
await badCalls(tester.client);
await cancel(tester.client);
await progress(tester.client);
await close(tester);

const reader = await connect(settings.reader);
await beDenied(reader.client);
await close(reader);
