// What the page asks the gateway: JSON by name, and the stream of views.

const FIRST_WAIT_MS = 1000, MOST_WAIT_MS = 10000, SILENT_MS = 15000;
let refused = () => {};

// `listener` hears of it when a key is needed: what the gateway says then is meant for programs.
export const onRefused = (listener) => { refused = listener; };

async function failure(answer) {
  const said = await answer.json().catch(() => ({}));
  const sentence = said.error?.message || said.error || `The gateway answers ${answer.status}.`;
  if (answer.status === 401) refused();
  return Object.assign(new Error(sentence), { status: answer.status });
}

export async function ask(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw await failure(answer);
  return answer;
}

export const get = async (path) => (await ask(path)).json();

export const post = (path, body, options) => ask(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
});

// One connection while the tab is seen. It comes back by itself: after a cut as the browser does it, after a
// refusal or when nothing is heard with a new one.
export class Stream {
  constructor(take) {
    this.take = take;
    this.source = null;
    this.waitMs = FIRST_WAIT_MS;
    this.heard = performance.now();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
  }

  open() {
    if (this.source || document.hidden) return;
    clearTimeout(this.timer);
    this.heard = performance.now();
    this.source = new EventSource("/orion/v1/live");
    this.source.onmessage = (event) => {
      this.heard = performance.now();
      this.waitMs = FIRST_WAIT_MS;
      this.take(JSON.parse(event.data));
    };
    this.source.onerror = () => {
      if (this.source?.readyState === EventSource.CLOSED) this.reopen();
    };
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  // The browser gives up on an answer that is no stream and does not tell which: a plain question does.
  async reopen() {
    this.close();
    const waitMs = this.waitMs;
    this.waitMs = Math.min(2 * waitMs, MOST_WAIT_MS);
    try {
      await get("/orion/v1/timeline");
    } catch {
      // the gateway is away, or a key was asked for
    }
    this.timer = setTimeout(() => this.open(), waitMs);
  }

  // Called now and then: a connection that is open but silent is dead.
  check() {
    if (this.source && performance.now() - this.heard > SILENT_MS) this.reopen();
  }
}
