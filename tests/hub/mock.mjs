// SPDX-License-Identifier: MIT
// A Hub on 127.0.0.1 and a CDN on 127.0.0.2: node tests/hub/mock.mjs FOLDER, until standard input ends.
//
// FOLDER/ports.json appears when they listen. FOLDER/scenario.json is read at each request:
//   id     of the scenario: rules are counted anew under another one
//   repos  { "ns/name": { commit, refs: { main: commit }, page, files: { path: { from, lfs } } } }
//   rules  [ { on: "HEAD hub /path", a regular expression; times; and what is done, see `answer` } ], the first
//          that fits and is not used up counts
// FOLDER/log.jsonl gets a line per request and one per answer.
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";

const folder = process.argv[2];
const here = new URL(".", import.meta.url).pathname;
const ports = {};
let scenario = {}, used = {}, requests = 0;

function readScenario() {
  const next = JSON.parse(fs.readFileSync(folder + "/scenario.json", "utf8"));
  if (next.id !== scenario.id) used = {};
  scenario = next;
}

const log = line => fs.appendFileSync(folder + "/log.jsonl", JSON.stringify(line) + "\n");

const files = new Map();
function load(entry) {
  const key = entry.from + fs.statSync(entry.from).mtimeMs;
  if (!files.has(key)) {
    const data = fs.readFileSync(entry.from);
    files.set(key, {
      data,
      sha256: crypto.createHash("sha256").update(data).digest("hex"),
      git: crypto.createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex"),
    });
  }
  return files.get(key);
}

function ruleFor(what) {
  for (const [i, rule] of Object.values(scenario.rules ?? {}).entries()) {
    if (!new RegExp("^" + rule.on).test(what) || (used[i] ?? 0) >= (rule.times ?? Infinity)) continue;
    used[i] = (used[i] ?? 0) + 1;
    return rule;
  }
  return {};
}

const notFound = (code, message) => ({ status: 404, headers: { "X-Error-Code": code, "X-Error-Message": message }, body: message });

function findRepo(kind, id) {
  return (scenario.repos ?? {})[kind === "datasets" ? "datasets/" + id : id];
}

const commitOf = (repo, rev) => repo.refs?.[rev] ?? (rev === repo.commit ? rev : undefined);

// A file as the Hub answers for it: large ones lie at the CDN, small ones behind a redirect of its own.
function resolve(kind, id, rev, path) {
  const repo = findRepo(kind, id);
  if (!repo) return notFound("RepoNotFound", "Repository not found");
  const commit = commitOf(repo, rev);
  if (!commit) return notFound("RevisionNotFound", "Invalid rev id: " + rev);
  const entry = repo.files[path];
  if (!entry) {
    const answer = notFound("EntryNotFound", "Entry not found");
    answer.headers["X-Repo-Commit"] = commit;
    return answer;
  }
  const { data, sha256 } = load(entry);
  if (!entry.lfs)
    return {
      status: 307,
      headers: { Location: `/api/resolve-cache/${kind}/${id}/${commit}/${encodeURI(path)}?file=1&etag=%22x%22` },
      body: "elsewhere",
    };
  return {
    status: 302,
    headers: {
      Location: `http://127.0.0.2:${ports.cdn}/${sha256}?signature=secret&from=${encodeURIComponent(entry.from)}`,
      "X-Repo-Commit": commit, "X-Linked-Etag": `"${sha256}"`, "X-Linked-Size": String(data.length),
      ETag: '"another"', "X-Xet-Hash": "00", Link: '<https://cas.invalid/auth>; rel="xet-auth"',
    },
    body: "Found. Redirecting to the CDN",
  };
}

function resolveCache(kind, id, commit, path, query) {
  const entry = findRepo(kind, id)?.files[path];
  if (!entry || query.get("file") !== "1" || query.get("etag") !== '"x"') return notFound("EntryNotFound", "query lost");
  const { data, git } = load(entry);
  return { status: 200, headers: { "X-Repo-Commit": commit, ETag: `W/"${git}"`, "Accept-Ranges": "bytes" }, data };
}

function revision(kind, id, rev) {
  const repo = findRepo(kind, id);
  if (!repo) return notFound("RepoNotFound", "Repository not found");
  const sha = commitOf(repo, rev);
  return sha ? { status: 200, headers: {}, data: Buffer.from(JSON.stringify({ id, sha })) } : notFound("RevisionNotFound", "Invalid rev id");
}

function tree(kind, id, commit, query) {
  const repo = findRepo(kind, id);
  if (!repo) return notFound("RepoNotFound", "Repository not found");
  const entries = Object.entries(repo.files).map(([path, entry]) => {
    const { data, sha256, git } = load(entry);
    return { type: "file", path, size: data.length, oid: git, ...(entry.lfs && { lfs: { oid: sha256, size: data.length } }) };
  });
  const size = repo.page ?? 1000, start = Number(query.get("cursor") ?? 0);
  const headers = start + size < entries.length
    ? { Link: `<http://${ports.host}/api/${kind}/${id}/tree/${commit}?recursive=true&cursor=${start + size}>; rel="next"` } : {};
  return { status: 200, headers, data: Buffer.from(JSON.stringify([{ type: "directory", path: "folder" }, ...entries.slice(start, start + size)])) };
}

function hub(url) {
  let m;
  if ((m = url.pathname.match(/^\/api\/resolve-cache\/(models|datasets)\/([^/]+\/[^/]+)\/([0-9a-f]{40})\/(.+)$/)))
    return resolveCache(m[1], m[2], m[3], decodeURIComponent(m[4]), url.searchParams);
  if ((m = url.pathname.match(/^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/revision\/([^/]+)$/)))
    return revision(m[1], m[2], decodeURIComponent(m[3]));
  if ((m = url.pathname.match(/^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/tree\/([^/]+)$/)))
    return tree(m[1], m[2], m[3], url.searchParams);
  if ((m = url.pathname.match(/^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/)))
    return resolve(m[1] ? "datasets" : "models", m[2], decodeURIComponent(m[3]), decodeURIComponent(m[4]));
  return notFound("", "no such page");
}

function cdn(url) {
  if (url.searchParams.get("signature") !== "secret") return { status: 403, headers: {}, body: "bad signature" };
  return { status: 200, headers: {}, data: load({ from: url.searchParams.get("from") }).data };
}

// What a rule changes: status, headers (null removes one), body; and of the content: flip (a byte at that
// offset is changed), grow and shrink (by so many bytes), ignore_range, shift_range (bytes).
function change(answer, rule, request) {
  if (rule.status) answer = { status: rule.status, headers: {}, body: rule.body ?? "" };
  let data = answer.data ?? Buffer.from(answer.body ?? "");
  if (rule.flip !== undefined) {
    data = Buffer.from(data);
    data[rule.flip] ^= 1;
  }
  if (rule.grow) data = Buffer.concat([data, Buffer.alloc(rule.grow, 7)]);
  if (rule.shrink) data = data.subarray(0, data.length - rule.shrink);
  const total = data.length, range = request.headers.range?.match(/^bytes=(\d+)-$/);
  if (range && answer.status === 200 && answer.data && !rule.ignore_range) {
    const first = Number(range[1]) + (rule.shift_range ?? 0);
    if (first >= total) {
      answer = { status: 416, headers: { "Content-Range": `bytes */${total}` } };
      data = Buffer.from("");
    } else {
      answer = { ...answer, status: 206, headers: { ...answer.headers, "Content-Range": `bytes ${first}-${total - 1}/${total}` } };
      data = data.subarray(first);
    }
  }
  const headers = { ...answer.headers, "Content-Length": String(data.length), ...rule.headers };
  for (const name of Object.keys(headers)) if (headers[name] === null) delete headers[name];
  return { status: answer.status, headers, data };
}

// truncate, stall: after so many bytes the connection ends, or nothing more comes; pace: bytes per millisecond;
// drop, silent: the same before any answer; late: milliseconds before it; hints: an interim answer comes first.
function send(socket, answer, rule, isHead, done) {
  const lines = [`HTTP/1.1 ${answer.status} Mock`, "Connection: close"];
  for (const [name, value] of Object.entries(answer.headers)) lines.push(`${name}: ${value}`);
  let sent = 0;
  socket.on("close", () => done(sent));
  socket.on("error", () => {});
  if (rule.drop) return socket.destroy();
  if (rule.silent) return;
  if (rule.hints) socket.write('HTTP/1.1 103 Early Hints\r\nETag: "of the hints"\r\n\r\n');
  socket.write(lines.join("\r\n") + "\r\n\r\n");
  const end = Math.min(answer.data.length, rule.truncate ?? Infinity, rule.stall ?? Infinity);
  if (isHead) return socket.end();
  const piece = rule.pace ? Math.max(rule.pace * 4, 1) : 1 << 18;
  const step = () => {
    if (socket.destroyed) return;
    if (sent >= end) {
      if (rule.stall !== undefined && end === rule.stall) return;
      return rule.truncate !== undefined ? socket.destroySoon() : socket.end();
    }
    const chunk = answer.data.subarray(sent, Math.min(sent + piece, end));
    sent += chunk.length;
    const go = () => rule.pace ? setTimeout(step, 4) : setImmediate(step);
    if (socket.write(chunk)) go();
    else socket.once("drain", go);
  };
  step();
}

function serve(name, find) {
  return (request, response) => {
    readScenario();
    const n = ++requests, socket = response.socket;
    const url = new URL(request.url, "http://mock");
    log({ n, server: name, method: request.method, url: request.url, headers: request.headers });
    const rule = ruleFor(`${request.method} ${name} ${request.url}`);
    const answer = change(rule.status ? {} : find(url), rule, request);
    const answered = sent => log({ n, server: name, sent, status: answer.status });
    setTimeout(() => send(socket, answer, rule, request.method === "HEAD", answered), rule.late ?? 0);
  };
}

const listen = (server, host) => new Promise(ready => server.listen(0, host, () => ready(server.address().port)));

ports.hub = await listen(http.createServer(serve("hub", hub)), "127.0.0.1");
ports.cdn = await listen(http.createServer(serve("cdn", cdn)), "127.0.0.2");
ports.other = await listen(http.createServer(serve("other", hub)), "127.0.0.1");
ports.tls = await listen(https.createServer({ key: fs.readFileSync(here + "key.pem"), cert: fs.readFileSync(here + "certificate.pem") }, serve("tls", hub)), "127.0.0.1");
ports.host = `127.0.0.1:${ports.hub}`;
fs.writeFileSync(folder + "/ports.tmp", JSON.stringify(ports));
fs.renameSync(folder + "/ports.tmp", folder + "/ports.json");
process.stdin.resume().on("end", () => process.exit());
