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

function banner(...content) {
  $("banner").replaceChildren(...(content.length ? [h("p", { class: "banner" }, ...content)] : []));
}

let pinging = false;
document.addEventListener("connection-lost", () => {
  if (pinging) return;
  pinging = true;
  banner("The connection to the service is lost; trying again. Jobs go on without this page.");
  const ping = () =>
    call("GET", "/healthz").catch(() => {
      setTimeout(ping, PING_MS);
    });
  setTimeout(ping, PING_MS);
});
document.addEventListener("connection-back", () => {
  if (!pinging) return;
  pinging = false;
  banner();
  document.dispatchEvent(new CustomEvent("connection-restored"));
});

if (location.pathname !== "/sign-in") {
  document.addEventListener("signed-out", () => {
    banner("Your sign-in has ended. ", h("a", { href: signInUrl() }, "Sign in again"), " to go on from here.");
  });
}
