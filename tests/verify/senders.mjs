// The senders that sources.mjs imitates. Each entry has the library, the source that receives the request, the body, how the library
// signs it (`sign`) and how the library checks it (`verify`). If a library only checks, `sign` follows the sender's
// documentation, and the library decides whether the signature is right. libraries.py calls the libraries from PyPI. For these,
// `signs` and `verifies` say whether the library can sign and verify.
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import { hmacValidator as AdyenValidator } from "@adyen/api-library";
import { WebhookVerificationService as Tern } from "@hookflo/tern";
import { Signature as HubspotSignature } from "@hubspot/api-client";
import { LinearWebhookClient } from "@linear/sdk/webhooks";
import { Webhooks as GithubWebhooks } from "@octokit/webhooks";
import { sign as signGithub, verify as verifyGithub } from "@octokit/webhooks-methods";
import { Environment, Paddle } from "@paddle/paddle-node-sdk";
import "@shopify/shopify-api/adapters/node"; // the library runs in several environments; this chooses Node
import { ApiVersion, LogSeverity, shopifyApi } from "@shopify/shopify-api";
import { createSHA256HMAC as signShopify } from "@shopify/shopify-api/runtime";
import { isValidSlackRequest } from "@slack/bolt/dist/receivers/verify-request.js";
import { AwsLambdaReceiver as ZoomReceiver } from "@zoom/rivet/users";
import { WebhooksHelper as SquareWebhooks } from "square";
import { Webhook } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";
import twilio from "twilio";

// The function with which Meta's library signs is in a file that the library does not export, and the library's entry point needs a
// configured account.
const { generateXHub256Sig: signMeta } = createRequire(import.meta.url)("./node_modules/whatsapp/build/utils.js");

/** The time of signing, in seconds. */
export const at = Math.floor(Date.now() / 1000);
// This JSON has everything that is easily changed by parsing and writing it: text beyond ASCII, a number that JavaScript would
// write differently, escapes, blanks.
const json = '{ "type": "invoice.paid",  "id": "evt_1", "total": 1.50, "name": "Zoë \\u00e9" }';
const form = "From=%2B14158675309&To=%2B18005551212&Body=ciao+Zo%C3%AB&MessageStatus=sent";
const linear = JSON.stringify({ type: "Issue", action: "create", webhookTimestamp: at * 1000, data: { id: "7" } });
// Zoom's library signs the JSON as JavaScript writes it.
const zoom = JSON.stringify({ event: "meeting.started", event_ts: at * 1000, payload: { object: { id: "7", topic: "Zoë" } } });
const whsec = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const hexKey = "44782def547aaa06c910c43932b1eb0c71fc68d9d0c057550c48ec2acf6ba056";

const hmac = (key, text, encoding = "hex") => createHmac("sha256", key).update(text).digest(encoding);
const fields = (form) => Object.fromEntries(new URLSearchParams(form));
const standard = (key, { id, body }, library, family) => ({
  [`${family}-id`]: id, [`${family}-timestamp`]: String(at), [`${family}-signature`]: new library(key).sign(id, new Date(at * 1000), body),
});
const mailgun = (key) => {
  const [timestamp, token] = [String(at), "c6b0a9e2f4d1b8a7c6b0a9e2f4d1b8a7c6b0a9e2f4d1b8a7c6"];
  return { timestamp, token, signature: hmac(key, timestamp + token) };
};
const mailgunEvent = (key) => JSON.stringify({ signature: mailgun(key), "event-data": { event: "opened", id: "7" } });
// A mail, as a route of Mailgun posts it.
const mailgunMail = (key) => String(new URLSearchParams({ sender: "zoe@example.com", subject: "Zoë", ...mailgun(key), "body-plain": "ciao" }));

/** What Zoom's library answers a request with; it needs no socket. */
export const askZoom = async (key, headers, body) => {
  const { debug } = console;
  console.debug = () => {};
  try {
    return await new ZoomReceiver({ webhooksSecretToken: key }).start()({ headers, body, isBase64Encoded: false }, {});
  } finally {
    console.debug = debug;
  }
};

// All headers that Shopify's library requires in a request, in one of its two families.
const shopify = (family, hmac, topic) => ({
  [`${family}hmac-sha256`]: hmac, [`${family}topic`]: topic, [`${family}shop-domain`]: "shop.example", [`${family}api-version`]: "2026-10",
  [`${family}webhook-id`]: "b54557e4",
});
const verifyShopify = async (apiSecretKey, headers, body) => {
  const { webhooks } = shopifyApi({
    apiKey: "none", apiSecretKey, apiVersion: ApiVersion.October26, hostName: "localhost", isEmbeddedApp: false, logger: { level: LogSeverity.Error },
  });
  return (await webhooks.validate({ rawBody: body, rawRequest: { method: "POST", url: "/", headers }, rawResponse: {} })).valid;
};

/** Headers that say what a request is about, and that no sender signs. */
export const unsigned = [
  "x-github-event", "x-gitlab-event", "x-gitea-event", "x-wc-webhook-topic",
  ...["topic", "shop-domain", "api-version", "webhook-id"].flatMap((name) => [`x-shopify-${name}`, `shopify-${name}`]),
];

export const senders = [
  {
    library: "npm @octokit/webhooks-methods", source: { preset: "github" }, body: json,
    sign: async (key, { body }) => ({ "x-hub-signature-256": await signGithub(key, body), "x-github-event": "push" }),
    verify: (key, headers, body) => verifyGithub(key, body, headers["x-hub-signature-256"]),
  },
  {
    library: "npm @octokit/webhooks", source: { preset: "github" }, body: `payload=${encodeURIComponent(json)}`, kind: "form",
    sign: async (secret, { body }) => ({ "x-hub-signature-256": await new GithubWebhooks({ secret }).sign(body), "x-github-event": "push" }),
    verify: (secret, headers, body) => new GithubWebhooks({ secret }).verify(body, headers["x-hub-signature-256"]),
  },
  {
    library: "npm standardwebhooks", source: { preset: "standard-webhooks" }, body: json,
    sign: async (key, request) => standard(key, request, Webhook, "webhook"),
    verify: async (key, headers, body) => new Webhook(key).verify(body, headers),
  },
  {
    library: "npm standardwebhooks", source: { preset: "gitlab", secret: whsec }, body: json,
    sign: async (key, request) => ({ ...standard(key, request, Webhook, "webhook"), "x-gitlab-event": "Push Hook" }),
    verify: async (key, headers, body) => new Webhook(key).verify(body, headers),
  },
  {
    library: "PyPI gidgetlab", source: { preset: "gitlab", secret: "a-secret-token-of-gitlab" }, body: json, bodyIsSigned: false,
    sign: async (key) => ({ "x-gitlab-token": key, "x-gitlab-event": "Push Hook", "idempotency-key": "4f1c" }), verifies: true, unsigned: ["idempotency-key"],
  },
  { library: "PyPI standardwebhooks", source: { preset: "standard-webhooks" }, body: json, signs: true, verifies: true },
  {
    library: "npm svix", source: { preset: "standard-webhooks" }, body: json,
    sign: async (key, request) => standard(key, request, Svix, "svix"),
    verify: async (key, headers, body) => new Svix(key).verify(body, headers),
  },
  {
    library: "npm stripe", source: { preset: "stripe", secret: "whsec_a-secret-of-stripe" }, body: json,
    sign: async (secret, { body }) =>
      ({ "stripe-signature": new Stripe("sk_test_x").webhooks.generateTestHeaderString({ payload: body, secret, timestamp: at }) }),
    verify: async (secret, headers, body) => new Stripe("sk_test_x").webhooks.constructEvent(body, headers["stripe-signature"], secret),
  },
  {
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => shopify("x-shopify-", await signShopify(key, body), "orders/create"), verify: verifyShopify,
  },
  {
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => shopify("shopify-", await signShopify(key, body), "Order"), verify: verifyShopify,
  },
  {
    // No request of Shopify has both families of headers. If both are present, the newer one decides.
    library: "npm @shopify/shopify-api", source: { preset: "shopify", secret: "a-client-secret-of-shopify" }, body: json,
    sign: async (key, { body }) => ({ ...shopify("x-shopify-", "AAAA", "other"), ...shopify("shopify-", await signShopify(key, body), "Order") }),
    verify: verifyShopify, unsigned: ["x-shopify-hmac-sha256"],
  },
  {
    // WooCommerce publishes no library. Another author wrote this library.
    library: "npm @hookflo/tern", source: { preset: "woocommerce" }, body: json,
    sign: async (key, { body }) => ({ "x-wc-webhook-signature": hmac(key, body, "base64"), "x-wc-webhook-topic": "order.created" }),
    verify: async (key, headers, body) =>
      (await Tern.verifyWithPlatformConfig(new Request("https://hooks.example.com", { method: "POST", headers, body }), "woocommerce", key)).isValid,
  },
  { library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: json, signs: true, verifies: true },
  {
    library: "PyPI slack-sdk", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: form, kind: "form",
    signs: true, verifies: true,
  },
  {
    library: "npm @slack/bolt", source: { preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5" }, body: form, kind: "form",
    sign: async (key, { body }) =>
      ({ "x-slack-request-timestamp": String(at), "x-slack-signature": `v0=${hmac(key, `v0:${at}:${body}`)}` }),
    verify: async (key, headers, body) => isValidSlackRequest({ signingSecret: key, body, headers }),
  },
  {
    library: "PyPI twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: form, kind: "form", signs: true, verifies: true,
  },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: form, kind: "form",
    sign: async (key, { body, url }) => ({ "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, fields(body)) }),
    verify: async (key, headers, body, url) => twilio.validateRequest(key, headers["x-twilio-signature"], url, fields(body)),
  },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-shared-key-of-twilio" }, body: form, kind: "form",
    sign: async (key, { body, url }) => ({
      "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, fields(body), "HMAC_SHA256"),
      "x-twilio-webhooks-signature-settings": "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256",
    }),
    verify: async (key, headers, body, url) => twilio.validateRequest(
      key, headers["x-twilio-signature"], url, fields(body), twilio.getSignatureAlgorithm(headers["x-twilio-webhooks-signature-settings"]),
    ),
    unsigned: ["x-twilio-webhooks-signature-settings"],
  },
  {
    library: "npm twilio", source: { preset: "twilio", secret: "a-token-of-twilio" }, body: json,
    query: `?bodySHA256=${twilio.getExpectedBodyHash(json)}&kind=sms`,
    sign: async (key, { url }) => ({ "x-twilio-signature": twilio.getExpectedTwilioSignature(key, url, {}) }),
    verify: async (key, headers, body, url) => twilio.validateRequestWithBody(key, headers["x-twilio-signature"], url, body),
  },
  {
    library: "PyPI buildbot-gitea", source: { preset: "gitea" }, body: json,
    sign: async (key, { body }) => ({ "x-gitea-signature": hmac(key, body), "x-gitea-event": "issue_assign" }), verifies: true,
  },
  {
    library: "npm whatsapp", source: { preset: "meta", secret: "an-app-secret-of-meta" }, body: json,
    sign: async (key, { body }) => ({ "x-hub-signature-256": `sha256=${signMeta(body, key)}` }),
  },
  {
    library: "PyPI pywa", source: { preset: "meta", secret: "an-app-secret-of-meta" }, body: json,
    sign: async (key, { body }) => ({ "x-hub-signature-256": `sha256=${hmac(key, body)}` }), verifies: true,
  },
  {
    library: "npm @zoom/rivet", source: { preset: "zoom", secret: "a-secret-token-of-zoom" }, body: zoom,
    sign: async (key, { body }) => ({ "x-zm-signature": `v0=${hmac(key, `v0:${at}:${body}`)}`, "x-zm-request-timestamp": String(at) }),
    verify: async (key, headers, body) => (await askZoom(key, headers, body)).statusCode === 200,
  },
  {
    library: "npm @linear/sdk", source: { preset: "linear", secret: "lin_wh_a-secret-of-linear" }, body: linear,
    sign: async (key, { body }) => ({ "linear-signature": hmac(key, body) }),
    verify: async (key, headers, body) => new LinearWebhookClient(key).verify(Buffer.from(body), headers["linear-signature"]),
  },
  {
    // The signature is in the body, and covers only the time and the token.
    library: "PyPI mailgun", source: { preset: "mailgun", secret: "a-signing-key-of-mailgun" }, body: mailgunEvent("a-signing-key-of-mailgun"),
    signed: ["timestamp", "token", "signature"], sign: async () => ({}), verifies: true,
  },
  {
    library: "PyPI mailgun", source: { preset: "mailgun", secret: "a-signing-key-of-mailgun" }, body: mailgunMail("a-signing-key-of-mailgun"),
    kind: "form", signed: ["timestamp", "token", "signature"], sign: async () => ({}), verifies: true,
  },
  {
    library: "npm @paddle/paddle-node-sdk", body: json,
    source: {
      preset: "hmac", header: "paddle-signature", list_key: "h1", timestamp: "list:ts", template: "{timestamp}:{body}",
      secret: "pdl_ntfset_a-secret-of-paddle",
    },
    // This library accepts only times within five seconds.
    sign: async (key, { body, now }) => ({ "paddle-signature": `ts=${now};h1=${hmac(key, `${now}:${body}`)}` }),
    verify: async (key, headers, body) =>
      new Paddle("none", { environment: Environment.sandbox }).webhooks.isSignatureValid(body, key, headers["paddle-signature"]),
  },
  {
    library: "npm square", body: json,
    source: { preset: "hmac", header: "x-square-hmacsha256-signature", encoding: "base64", template: "{url}{body}", secret: "a-signature-key-of-square" },
    sign: async (key, { body, url }) => ({ "x-square-hmacsha256-signature": hmac(key, url + body, "base64") }),
    verify: (key, headers, body, url) =>
      SquareWebhooks.verifySignature({ requestBody: body, signatureHeader: headers["x-square-hmacsha256-signature"], signatureKey: key, notificationUrl: url }),
  },
  {
    library: "npm @hubspot/api-client", body: json,
    source: {
      preset: "hmac", header: "x-hubspot-signature-v3", encoding: "base64", timestamp: "header:x-hubspot-request-timestamp",
      template: "{method}{url}{body}{timestamp}", secret: "a-client-secret-of-hubspot",
    },
    sign: async (clientSecret, { body, url }) => ({
      "x-hubspot-signature-v3":
        HubspotSignature.getSignature("POST", "v3", { clientSecret, requestBody: body, url, timestamp: at * 1000 }),
      "x-hubspot-request-timestamp": String(at * 1000),
    }),
    verify: async (clientSecret, headers, body, url) => HubspotSignature.isValid({
      signatureVersion: "v3", signature: headers["x-hubspot-signature-v3"], clientSecret, requestBody: body, url,
      timestamp: Number(headers["x-hubspot-request-timestamp"]),
    }),
  },
  {
    library: "npm @adyen/api-library", body: json,
    source: { preset: "hmac", header: "hmacsignature", encoding: "base64", secret_encoding: "hex", secret: hexKey },
    sign: async (key, { body }) => ({ hmacsignature: new AdyenValidator().calculateHmac(body, key) }),
    verify: async (key, headers, body) => new AdyenValidator().validateHMACSignature(key, headers.hmacsignature, body),
  },
];
