// The socket to the server: frames, states and errors in, requests out.

const RETRY_MS = 1000;
const TOO_MANY_PAGES = 1013;

export class Connection {
  // handlers: frame(head, blobs), state(state), error(text), lost(text or "").
  constructor(handlers) {
    this.handlers = handlers;
    this.panels = [];
    this.drawn = Promise.resolve();
    this.open();
  }

  open() {
    const address = new URL("/stream", location.href);
    address.protocol = "ws:";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.handlers.lost("");
      this.show(this.panels);
    };
    this.socket.onmessage = (event) => this.receive(event.data);
    this.socket.onclose = (event) => {
      if (event.code === TOO_MANY_PAGES) return;  // the server has said why
      this.handlers.lost("The server cannot be reached: has it ended? It is tried again every second.");
      setTimeout(() => this.open(), RETRY_MS);
    };
  }

  receive(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "state") this.handlers.state(message);
      else if (message.type === "error") this.handlers.error(message.text);
      return;
    }
    const length = new DataView(data).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const blobs = new Map();
    let position = 4 + length;
    for (const facts of head.blobs) {
      blobs.set(facts.name, { ...facts, data: new Uint8Array(data, position, facts.size) });
      position += facts.size;
    }
    // One after the other: pictures are decoded in the background, and a small one would overtake.
    this.drawn = this.drawn
      .then(() => this.handlers.frame(head, blobs))
      .catch((error) => console.error(error))
      .finally(() => this.send({ type: "shown", frame: head.frame }));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  show(panels) {
    this.panels = panels;
    this.send({ type: "show", panels });
  }
}
