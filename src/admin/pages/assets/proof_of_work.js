// Solves the human test on the unblock page: ALTCHA's proof of work, version 2, with iterated SHA-256.
//
// The page starts this file as its script and once more as a worker, which does the hashing. A challenge is solved by the
// counter for which SHA-256, iterated `cost` times over salt, nonce and counter, begins with `keyPrefix`.
// SHA-256 is written out because crypto.subtle does not exist on plain HTTP, and takes a promise per hash where it does.
"use strict";

const K = new Int32Array([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
  0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
  0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
  0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
  0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
  0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]);
const W = new Int32Array(64);

// SHA-256 of a message of at most 55 bytes, which stands in W[0..15] with its padding. The hash replaces W[0..7].
function block() {
  for (let i = 16; i < 64; i++) {
    const a = W[i - 15], b = W[i - 2];
    const s0 = ((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3);
    const s1 = ((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10);
    W[i] = (W[i - 16] + s0 + W[i - 7] + s1) | 0;
  }
  let a = 0x6a09e667, b = 0xbb67ae85 | 0, c = 0x3c6ef372, d = 0xa54ff53a | 0;
  let e = 0x510e527f, f = 0x9b05688c | 0, g = 0x1f83d9ab, h = 0x5be0cd19;
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + W[i]) | 0;
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + t1) | 0; d = c; c = b; b = a; a = (t1 + t2) | 0;
  }
  W[0] = a + 0x6a09e667; W[1] = b + 0xbb67ae85; W[2] = c + 0x3c6ef372; W[3] = d + 0xa54ff53a;
  W[4] = e + 0x510e527f; W[5] = f + 0x9b05688c; W[6] = g + 0x1f83d9ab; W[7] = h + 0x5be0cd19;
}

const words = (hex) => Int32Array.from(hex.match(/.{8}/g), (word) => parseInt(word, 16) | 0);
const hex = (numbers) => Array.from(numbers, (number) => (number >>> 0).toString(16).padStart(8, "0")).join("");

// Tells of progress once in a while, for it takes seconds.
function solve({ algorithm, cost, salt, nonce, keyPrefix, keyLength }, progress) {
  if (algorithm !== "SHA-256" || salt.length !== 32 || nonce.length !== 32 || keyLength !== 32) throw new Error("unknown test");
  const [s, n] = [words(salt), words(nonce)];
  const first = parseInt(keyPrefix.slice(0, 8), 16) | 0;
  for (let counter = 0; counter <= 0xffffffff; counter++) {
    // Salt, nonce and counter: 36 bytes, a one, zeros, and the length in bits.
    W.set(s, 0);
    W.set(n, 4);
    W[8] = counter; W[9] = 0x80000000; W.fill(0, 10, 15); W[15] = 288;
    block();
    for (let i = 1; i < cost; i++) {
      W[8] = 0x80000000; W.fill(0, 9, 15); W[15] = 256;
      block();
    }
    if (W[0] === first) {
      const derivedKey = hex(W.subarray(0, 8));
      if (derivedKey.startsWith(keyPrefix)) return { counter, derivedKey };
    }
    if (counter % 100 === 99) progress(counter);
  }
  throw new Error("no solution");
}

function page() {
  const form = document.getElementById("human");
  const [say, button, field] = [form.querySelector("output"), form.querySelector("button"), form.elements.altcha];
  const challenge = JSON.parse(form.dataset.challenge);
  const failed = () => { say.value = form.dataset.failed; };
  const worker = new Worker(document.currentScript.src);
  say.value = form.dataset.working;
  worker.onerror = failed;
  worker.onmessage = ({ data }) => {
    if (data.progress) { say.value = `${form.dataset.working} ${data.progress}`; return; }
    if (!data.solution) return failed();
    worker.terminate();
    field.value = btoa(JSON.stringify({ challenge, solution: data.solution }));
    say.value = form.dataset.done;
    button.disabled = false;
  };
  worker.postMessage(challenge.parameters);
}

if (typeof document === "undefined") {
  onmessage = ({ data }) => postMessage({ solution: solve(data, (progress) => postMessage({ progress })) });
} else {
  page();
}
