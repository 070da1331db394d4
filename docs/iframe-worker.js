// The worker of the search for pages that are opened from the disk, where browsers refuse workers: it runs in a frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #loaded;
    #scope;

    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.#scope = frame.contentWindow;
      this.#scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.#loaded = new Promise((resolve, reject) => {
        const script = this.#scope.document.createElement("script");
        Object.assign(script, { src: new URL(url, location), onload: resolve, onerror: reject });
        this.#scope.document.body.append(script);
      });
    }

    postMessage(data) {
      this.#loaded.then(() => this.#scope.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
