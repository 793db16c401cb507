// Passkeys are the one thing on these pages that needs a script. It shows the
// form for them where the browser can do it, asks the server what is to be
// signed, and sends the form with what the passkey answered.
"use strict";
for (const form of document.querySelectorAll("form[data-passkey]")) {
  const create = form.dataset.passkey === "create";
  if (!window.PublicKeyCredential || !PublicKeyCredential.prototype.toJSON || !PublicKeyCredential.parseCreationOptionsFromJSON) {
    continue;
  }
  form.hidden = false;
  document.querySelectorAll("[data-no-passkey]").forEach((e) => { e.hidden = true; });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = form.querySelector("[data-problem]");
    const button = form.querySelector("button");
    problem.hidden = true;
    button.disabled = true;
    try {
      const answer = await fetch(form.getAttribute("action"), { // form.action is the field of that name
        method: "POST", redirect: "error", credentials: "same-origin",
        body: new URLSearchParams({ csrf: form.elements.csrf.value, action: form.dataset.options }),
      });
      if (!answer.ok) {
        throw new Error(answer.status);
      }
      const options = await answer.json();
      const credential = create
        ? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
        : await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
      form.elements.credential.value = JSON.stringify(credential);
      form.submit();
    } catch {
      problem.hidden = false;
      button.disabled = false;
    }
  });
}
