// Signing in, with a key or by a link that holds for once.

import { call } from "/static/api.js";
import { $ } from "/static/dom.js";
import "/static/page.js";

/** Where to go afterwards: only a path of this very site. */
function target() {
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  // In full: the path alone may begin with two slashes, and then names another host.
  return next.origin === location.origin ? next.href : "/";
}

async function signIn(credential) {
  $("wait").hidden = false;
  $("key-error").textContent = "";
  $("key").removeAttribute("aria-invalid");
  try {
    await call("POST", "/session", { json: credential });
    location.replace(target());
  } catch (problem) {
    $("wait").hidden = true;
    $("key-error").textContent = problem.message;
    $("key").setAttribute("aria-invalid", "true");
    $("key").focus();
  }
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn({ key: $("key").value });
});

/** Follow the link in the address, if it is one; it does not stay there. */
function followLink() {
  const link = location.hash.slice(1);
  if (!link) return false;
  history.replaceState(null, "", location.pathname + location.search);
  signIn({ link });
  return true;
}

addEventListener("hashchange", followLink); // pasted while this page is open
if (!followLink()) {
  // A link on another site brings no cookie along; this page's own requests do.
  call("GET", "/v1/usage").then(
    () => location.replace(target()),
    () => $("key").focus(),
  );
}
