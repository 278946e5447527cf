// SPDX-License-Identifier: Apache-2.0
// Requests to the server. All paths are relative: the token is in the page's own address.

const page = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());

export class Superseded extends Error {}
export class Gone extends Error {}

let onState = () => {};
export function watch(report) {
  onState = report;
  const ask = async () => {
    if (!document.hidden) {
      try {
        await request("alive", {});
      } catch { /* reported already */ }
    }
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 2000);
}

export function address(name, params) {
  return `api/${name}?${new URLSearchParams(params)}`;
}

async function request(name, params) {
  let response;
  try {
    response = await fetch(address(name, {...params, page}));
  } catch {
    onState(false);
    throw new Gone("no server");
  }
  if (response.status === 403 || response.status === 421) {  // another server has its port now
    onState(false);
    throw new Gone("another server");
  }
  onState(true);
  if (response.status === 204) throw new Superseded();
  if (!response.ok) {
    const text = await response.text();
    let line = text.split("\n")[0];
    try {
      line = JSON.parse(text).error ?? line;
    } catch { /* not JSON */ }
    throw new Error(line);
  }
  return response;
}

export async function json(name, params) {
  return (await request(name, params)).json();
}

export async function blob(name, params) {
  return (await request(name, params)).blob();
}

export function save(data, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
