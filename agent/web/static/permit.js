// What changes something asks for the credential each time; it is sent once and kept nowhere.

import { change } from "./ask.js";

const dialog = document.getElementById("ask");
const part = (name) => document.getElementById(`ask-${name}`);
const credential = document.getElementById("credential");
let wanted = null;

/** Asks for the credential and does it; `then` is called when the agent has agreed. */
export function permit(title, says, verb, path, body, then) {
  wanted = { path, body, then };
  part("title").textContent = title;
  part("says").textContent = says;
  part("do").textContent = verb;
  part("fault").textContent = "";
  credential.value = "";
  dialog.showModal();
}

part("cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => (credential.value = ""));
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  part("do").disabled = true;
  try {
    await change(wanted.path, wanted.body, credential.value.trim());
    dialog.close();
    wanted.then();
  } catch (error) {
    part("fault").textContent =
      error.status === 401 ? "The agent does not take this credential." : `Not done: ${error.message}`;
    credential.select();
  } finally {
    part("do").disabled = false;
  }
});
