"use strict";
// Asks /cluster each second and fills the page in. Everything from outside goes in as text, never as markup.
const $ = (id) => document.getElementById(id);
const el = (tag, cls, ...kids) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  e.append(...kids);
  return e;
};
const bytes = (n) => {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i && n < 100 ? n.toFixed(1) : Math.round(n)) + " " + units[i];
};
const num = (n) => (n === null || n === undefined ? "–" : Math.round(n).toLocaleString("en"));
const pill = (text, kind) => el("span", "pill " + kind, text);
const td = (cls, ...kids) => el("td", cls, ...kids);
const link = (node) => {
  if (!node.http) return node.name;
  const a = el("a", "", node.name);
  a.href = "http://" + node.http + "/";
  return a;
};
const usage = (total, free) => {
  const used = total > 0 ? Math.min(100, 100 * (total - free) / total) : 0;
  const fill = el("i", "");
  fill.style.width = used.toFixed(1) + "%";
  return [el("span", "bar", fill), used.toFixed(0) + " % of " + bytes(total)];
};
const stateKind = { up: "ok", suspect: "warn", draining: "warn", down: "bad" };
const healthKind = { ok: "ok", degraded: "warn", down: "bad" };
const card = (label, value, note) => el("div", "card", el("small", "", label), el("b", "", value), el("small", "", note || ""));

function show(c) {
  const health = $("health");
  health.textContent = c.health;
  health.className = "pill " + (healthKind[c.health] || "");
  document.title = "POHMELFS " + c.health;
  $("cluster").textContent = (c.label ? c.label + " · " : "") + c.cluster;
  const leader = c.meta.find((m) => m.node === c.leader);
  const up = c.data.filter((d) => d.state === "up").length;
  const alive = c.meta.filter((m) => m.reachable).length;
  const rate = (key) => c.data.reduce((sum, d) => sum + d[key], 0);
  $("cards").replaceChildren(
    card("Leader", leader ? leader.name : "none", "term " + num(c.term)),
    card("Metadata servers", alive + " of " + c.meta.length, "reachable"),
    card("Data servers", up + " of " + c.data.length, "up"),
    card("Format level", num(c.level), c.level_note || ""),
    card("Groups", num(c.groups.whole) + " of " + num(c.groups.count), "whole"),
    card("Files and directories", num(c.totals.inode_count), num(c.totals.session_count) + " sessions"),
    card("Stored", bytes(c.totals.used), bytes(c.totals.free) + " free"),
    card("Reads", bytes(rate("read_rate")) + "/s", "all data servers"),
    card("Writes", bytes(rate("write_rate")) + "/s", "all data servers"),
    ...(c.grace ? [card("Kept behind a restore", bytes(c.grace.kept.bytes), "until " + new Date(c.grace.until * 1000).toLocaleString())] : []));
  $("reasons").replaceChildren(...c.reasons.map((r) =>
    el("div", "reason " + (healthKind[r.health] || ""), r.what, el("span", "", r.hint))));
  $("meta").replaceChildren(...c.meta.map((m) => el("tr", "",
    td("", link(m)), td("", m.role || "-"),
    td("", m.reachable ? pill(m.raft_state || "?", m.raft_state === "leader" ? "ok" : "") : pill("unreachable", "bad")),
    td("mono", m.address), td("n", num(m.term)), td("n", num(m.last_log)), td("n", num(m.lag)), td("n", num(m.applied)),
    td("n", num(m.snapshot)), td("n", num(m.request_rate)), td("n", bytes(m.resident_bytes)))));
  $("data").replaceChildren(...c.data.map((d) => el("tr", "",
    td("", link(d)), td("", pill(d.state, stateKind[d.state] || "")), td("mono", d.address), td("", d.domain),
    td("", ...usage(d.total, d.free)), td("n", num(d.block_count)), td("n", num(d.in_flight)),
    td("n", bytes(d.read_rate) + "/s"), td("n", bytes(d.write_rate) + "/s"))));
  $("by").textContent = c.answered_by;
}

async function poll() {
  try {
    const answer = await fetch("/cluster", { signal: AbortSignal.timeout(8000) });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error + ". " + body.hint);
    show(body);
    $("stale").style.display = "none";
  } catch (e) {
    $("stale").style.display = "block";
    $("why").textContent = String(e.message || e);
  }
  setTimeout(poll, 1000);
}
poll();
