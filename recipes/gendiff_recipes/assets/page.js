"use strict";

const form = document.getElementById("form"), result = document.getElementById("result");
const progress = document.getElementById("progress"), go = document.getElementById("sample"), cancel = document.getElementById("cancel");
const meta = name => document.querySelector(`meta[name="gendiff-${name}"]`).content;
const uploads = new Map(); // by field: a promise of the key of its file

// What is wrong, beside the field that it is about; nothing that was typed is touched.
const keyed = key => key === "" ? "form" : key.replace(".", "-");
const place = key => document.getElementById(`error-${keyed(key)}`) || document.getElementById("error-form");
const control = key => document.getElementById(keyed(key));

function tell(key, text) {
  const at = place(key), field = control(key);
  at.textContent = text;
  at.hidden = !text;
  if (field && text) field.setAttribute("aria-invalid", "true");
  if (field && !text) field.removeAttribute("aria-invalid");
}

function clear() {
  for (const at of document.querySelectorAll(".error[id]")) at.hidden = true;
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function tellAll(errors) {
  for (const [key, text] of Object.entries(errors)) tell(key, text);
  const first = document.querySelector(".error:not([hidden])");
  if (first) first.scrollIntoView({block: "center", behavior: "smooth"});
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, {...options, headers: {"X-Gendiff-Token": meta("token"), ...options.headers}});
  } catch {
    return {status: 0, message: "gendiff ui does not answer. Is it still running?"};
  }
  const value = await answer.json().catch(() => ({message: "An answer that cannot be read."}));
  return {...value, status: answer.status};
}

// Fields.
for (const field of document.querySelectorAll(".field[data-kind]")) {
  const how = field.querySelector(".how"), name = field.dataset.name, typed = document.getElementById(`asked-${name}`);
  const dim = () => field.classList.toggle("unsaid", Boolean(how) && how.value !== "value");
  const say = () => { if (how) how.value = "value"; dim(); tell(`asked.${name}`, ""); };
  typed.addEventListener("input", say);
  if (how) how.addEventListener("change", () => { dim(); tell(`asked.${name}`, ""); });
  dim();
  const slider = field.querySelector(".slider");
  if (slider) {
    const range = slider.querySelector("[type=range]"), low = Number(slider.dataset.low), high = Number(slider.dataset.high);
    const log = "log" in slider.dataset, whole = "whole" in slider.dataset;
    const scale = value => log ? Math.log(value) : value;
    const digits = Math.max(0, 3 - Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high), 1e-9))));
    const follow = () => {
      const share = high > low ? (scale(Number(typed.value)) - scale(low)) / (scale(high) - scale(low)) : 0;
      if (Number.isFinite(share)) range.value = String(Math.round(1000 * Math.min(1, Math.max(0, share))));
    };
    range.addEventListener("input", () => {
      const at = scale(low) + Number(range.value) / 1000 * (scale(high) - scale(low)), value = log ? Math.exp(at) : at;
      typed.value = whole ? String(Math.round(value)) : String(Number(value.toFixed(Math.min(12, digits))));
      say();
    });
    typed.addEventListener("input", follow);
    follow();
  }
  if (field.dataset.kind === "file") typed.addEventListener("change", () => {
    const file = typed.files[0];
    uploads.delete(name);
    if (file) uploads.set(name, upload(name, file));
  });
}
form.addEventListener("input", event => { if (event.target.name) tell(event.target.name, ""); });

async function upload(name, file) {
  const most = Number(meta("upload"));
  if (file.size > most) {
    tell(`asked.${name}`, `${(file.size / 2 ** 20).toFixed(1)} MiB came; expected at most ${(most / 2 ** 20).toFixed(0)} MiB.`);
    return "";
  }
  const answer = await ask(`/file?field=${encodeURIComponent(name)}`, {
    method: "POST", body: file, headers: {"X-File-Name": encodeURIComponent(file.name)},
  });
  if (answer.key) return answer.key;
  tellAll(answer.errors || {[`asked.${name}`]: answer.message});
  return "";
}

async function said() {
  const asked = {}, guidance = {};
  let whole = true;
  for (const field of document.querySelectorAll(".field[data-kind]")) {
    const name = field.dataset.name, typed = document.getElementById(`asked-${name}`), own = document.getElementById(`guidance-${name}`);
    const how = field.dataset.kind === "menu" ? typed.selectedOptions[0].dataset.how : field.querySelector(".how").value;
    let value = typed.value;
    if (field.dataset.kind === "file") {
      value = how === "value" && uploads.has(name) ? await uploads.get(name) : "";
      if (how === "value" && uploads.has(name) && !value) whole = false; // its error stands there already
    }
    asked[name] = {how, value};
    if (own) guidance[name] = own.value;
  }
  const plain = Object.fromEntries(["n", "seed", "sampler", "steps"].map(name => [name, document.getElementById(name).value]));
  return whole ? {asked, guidance, ...plain} : null;
}

// Sampling.
let shown = "";

function busy(on) {
  go.disabled = on;
  cancel.hidden = !on;
  progress.hidden = !on;
  result.classList.toggle("old", on);
}

async function follow() {
  busy(true);
  for (;;) {
    const now = await ask("/status");
    if (now.status !== 200) { busy(false); tell("", now.message); return; }
    progress.querySelector("progress").value = now.share || 0;
    progress.querySelector("span").textContent = `${Math.round(100 * (now.share || 0))} %, ${(now.seconds || 0).toFixed(0)} s`;
    if (["done", "failed", "cancelled", "refused", "idle"].includes(now.state)) {
      busy(false);
      if (now.state === "failed") tell("", now.message);
      if (now.state === "cancelled") tell("", "Cancelled; nothing was kept.");
      if (now.state === "done") await show(now.job);
      return;
    }
    await new Promise(done => setTimeout(done, 250));
  }
}

async function show(job) {
  if (job === shown) return;
  const answer = await ask(`/result?job=${encodeURIComponent(job)}`);
  if (answer.status !== 200) { tell("", answer.message); return; }
  if (answer.solid && !window.$3Dmol) await script("/assets/3Dmol-min.js");
  for (const canvas of result.querySelectorAll("canvas")) {
    const gl = canvas.getContext("webgl2") || canvas.getContext("webgl");
    if (gl) gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
  shown = job;
  result.innerHTML = answer.html; // made by our templates, in which every text is escaped
  enliven(result);
  if (matchMedia("(max-width: 860px)").matches) result.scrollIntoView({behavior: "smooth"});
}

const script = source => new Promise(done => {
  const element = document.createElement("script");
  element.src = source;
  element.addEventListener("load", done);
  element.addEventListener("error", done); // without it a structure is a picture
  document.head.append(element);
});

form.addEventListener("submit", async event => {
  event.preventDefault();
  if (go.disabled) return;
  go.disabled = true;
  const form = await said();
  if (!form) { go.disabled = false; return; }
  clear();
  const answer = await ask("/sample", {method: "POST", body: JSON.stringify(form)});
  go.disabled = false;
  if (answer.errors) tellAll(answer.errors);
  else if (answer.status !== 200) tellAll({"": answer.message});
  else await follow();
});

cancel.addEventListener("click", () => ask("/cancel", {method: "POST", body: ""}));

result.addEventListener("click", async event => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const text = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

ask("/status").then(now => {
  if (now.state === "waiting" || now.state === "drawing") follow();
  if (now.state === "done") show(now.job);
});
