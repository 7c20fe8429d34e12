// Makes the search work on pages that are opened from the disk (file://). Loaded before MkDocs' own search/main.js.
//
// Browsers refuse workers and XMLHttpRequest below file://. There this class takes the place of Worker: it answers the
// same messages in the page itself, with MkDocs' own lunr.js and the index that docs/hooks.py has written as a script.
"use strict";

if (location.protocol === "file:") {
  const load = (path) =>
    new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${base_url}/search/${path}`;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`cannot load ${script.src}`));
      document.head.append(script);
    });

  window.Worker = class {
    postMessage(message) {
      if (message.init) this.start();
      else this.onmessage({ data: { results: this.search(message.query) } });
    }

    async start() {
      await Promise.all([load("lunr.js"), load("search_index.js")]);
      const { config, docs } = window.searchIndex;
      this.pages = new Map(docs.map((page) => [page.location, page]));
      lunr.tokenizer.separator = new RegExp(config.separator);
      this.index = lunr(function () {
        this.ref("location");
        this.field("title");
        this.field("text");
        docs.forEach((page) => this.add(page));
      });
      this.onmessage({ data: { config } });
      this.onmessage({ data: { allowSearch: true } });
    }

    search(query) {
      return this.index.search(query).map(({ ref }) => {
        const page = this.pages.get(ref);
        return { ...page, summary: page.text.slice(0, 200) };
      });
    }
  };
}
