// SPDX-License-Identifier: MIT
// What a person can do about a failure, beside what the server says of it.

const BY_FIELD: Record<string, string> = {
  "ENOENT model_name": "Choose one of those offered, or start the server with --data FOLDER, where the model lies.",
  "ENOENT sae_path": "Choose one of those offered, or put the file below the server's data folder.",
  "EFORMAT sae_path": "Choose a file that holds an SAE: .pth, .pt, .npz or .safetensors.",
  "EUNSUPPORTED sae_path": "Choose a file that holds an SAE: .pth, .pt, .npz or .safetensors.",
  "EFORMAT model_name": "Choose a folder with a config.json, a tokenizer.json and the weights as they were published.",
  "EINVAL sae_path": "Answer it under Options: format, activation or input scale.",
  "EINVAL layer_idx": "Leave the layer empty for the file's own, or name it under Options; “whatever the file says” overrides the file.",
  "ERANGE layer_idx": "Name a layer that the model has, under Options.",
  "ERANGE model_name": "Choose a smaller context under Options.",
};

const BY_CODE: Record<string, string> = {
  ESHAPE: "Load an SAE that was trained on this model, or the model that it was trained on.",
  ENOMEM: "Unload what is not needed, choose a smaller context or bf16 under Options, then load again.",
  ENOMODEL: "Load a model first: Set up (key 1).",
  ELOADING: "Wait until it is loaded, or cancel that under Jobs (key 4).",
  EBUSY: "Too many answers run at once: try again soon.",
  EDEVICE: "Choose another device under Options.",
  EMODEL: "Another tab or client loaded or unloaded the model: try again.",
  ECONTEXT: "Shorten the text, or load the model with a larger context.",
  ENET: "Check the connection and try again: what was fetched is kept. Without a network, put the file below the data folder.",
  EHASH: "Try again: what came was not what the Hub announced.",
  EEXIST: "Move that file away, or start the server with another first data folder.",
  EIO: "Look whether the disk is full or read-only.",
  ERANGE: "Make the edits smaller.",
};

export function advice(code: string, field?: string): string | undefined {
  return BY_FIELD[`${code} ${field}`] ?? BY_CODE[code];
}
