// What every page has: theme, signing out, and the banner for a lost connection or an ended sign-in.

import { call } from "/static/api.js";
import { $, h } from "/static/dom.js";

const PING_MS = 2000;
const THEMES = ["auto", "light", "dark"];
const signInUrl = () => `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;

const showTheme = () => {
  const theme = document.documentElement.dataset.theme;
  $("theme-name").textContent = theme;
};
$("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement;
  dataset.theme = THEMES[(THEMES.indexOf(dataset.theme) + 1) % THEMES.length];
  localStorage.setItem("theme", dataset.theme);
  showTheme();
});
showTheme();

$("sign-out")?.addEventListener("click", async () => {
  await call("DELETE", "/session").catch(() => {});
  location.assign("/sign-in");
});

let shown = "";
/** One at a time; what is there already is not said again to those who hear it. */
function banner(kind, ...content) {
  if (kind === shown) return;
  shown = kind;
  $("banner").replaceChildren(...(content.length ? [h("p", { class: "banner" }, ...content)] : []));
}

let pinging = false;
document.addEventListener("connection-lost", () => {
  if (pinging) return;
  pinging = true;
  banner("lost", "The connection to the service is lost; trying again. Jobs go on without this page.");
  const ping = () =>
    call("GET", "/healthz").catch(() => {
      setTimeout(ping, PING_MS);
    });
  setTimeout(ping, PING_MS);
});
document.addEventListener("connection-back", () => {
  if (!pinging) return;
  pinging = false;
  banner("");
  for (const video of document.querySelectorAll("video")) if (video.error) video.load();
  document.dispatchEvent(new CustomEvent("connection-restored"));
});

if (location.pathname !== "/sign-in") {
  document.addEventListener("signed-out", () => {
    banner("signed-out", "Your sign-in has ended. ", h("a", { href: signInUrl() }, "Sign in again"), " to go on from here.");
  });
  // Signed in anew in another tab, perhaps with another key: what this page shows is not that one's.
  document.addEventListener("session-changed", () => {
    banner("changed", "You have signed in again elsewhere. ", h("a", { href: "" }, "Load this page again"), " to go on.");
  });
}
