#!/usr/bin/env python3
"""Makes beside.json: what cosign, Notation and keyless signers put beside images of the played hub, byte for byte as they push it.

    weir-conformance hub --challenge nobody --image signed/app:latest=41,layers=1KiB,single \
        --image signed/other:latest=43,layers=1KiB,single --image signed/index:latest=42,layers=1KiB
    weir, with hosted.namespaces = ["signed/*"] and hosted.anonymous_push = true
    go install github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3 github.com/google/go-containerregistry/cmd/crane@v0.21.0
    go mod init signatures && go get github.com/sigstore/sigstore-go@v1.2.2 github.com/notaryproject/notation-go@v1.3.2 && go mod tidy
    cp -r "$(go list -m -f '{{.Dir}}' github.com/sigstore/sigstore-go)" sigstore-go && chmod -R u+w sigstore-go
    sed -i 's/issuer, time.Now(), privKey/issuer, LeafFrom(), privKey/' sigstore-go/pkg/testing/ca/ca.go
    echo 'var LeafFrom = time.Now' >> sigstore-go/pkg/testing/ca/ca.go
    go mod edit -replace github.com/sigstore/sigstore-go=./sigstore-go && go build -o bin/ ./keyless ./notary
    COSIGN_PASSWORD= ./make.py HUB WEIR         # host:port of both
"""
import json, os, subprocess, sys, tempfile, urllib.request

HUB, WEIR = sys.argv[1:3]
HERE = os.path.dirname(os.path.abspath(__file__))
WORK = tempfile.mkdtemp()
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
beside, count = {}, 0


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{words}: {done.stderr}")
    return done.stdout.strip()


def get(path):
    return urllib.request.urlopen(f"http://{WEIR}{path}").read().decode()


def place(image, repository):
    run("crane", "copy", "--insecure", f"{HUB}/signed/{image}:latest", f"{WEIR}/{repository}:latest")
    return run("crane", "digest", "--insecure", f"{WEIR}/{repository}:latest")


def keep(name, repository, reference):
    manifest = get(f"/v2/{repository}/manifests/{reference}")
    parsed = json.loads(manifest)
    named = [parsed["config"]] + parsed["layers"]
    beside[name] = {"manifest": manifest, "blobs": [get(f"/v2/{repository}/blobs/{one['digest']}") for one in named]}


def cosign(name, image, key, old, identity=None, attest=None):
    global count
    count += 1
    repository = f"signed/{os.getpid()}-{count}"
    digest = place(image, repository)
    words = ["--key", f"{WORK}/{key}.key", "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "-y"]
    words += ["--new-bundle-format=false"] if old else []
    words += ["--sign-container-identity", identity] if identity else []
    words += ["--type", "spdxjson", "--predicate", attest] if attest else []
    run("cosign", "attest" if attest else "sign", *words, f"{WEIR}/{repository}@{digest}")
    if old:
        keep(name, repository, digest.replace(":", "-") + (".att" if attest else ".sig"))
    else:
        keep(name, repository, json.loads(get(f"/v2/{repository}/referrers/{digest}"))["manifests"][0]["digest"])


def describe(media_type, text):
    import hashlib
    return {"mediaType": media_type, "size": len(text), "digest": "sha256:" + hashlib.sha256(text.encode()).hexdigest()}


for name in ["release", "other"]:
    run("cosign", "generate-key-pair", "--output-key-prefix", f"{WORK}/{name}")
run("openssl", "genpkey", "-algorithm", "ed25519", "-out", f"{WORK}/ed.pem")
run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", f"{WORK}/rsa.pem")
for name in ["ed", "rsa"]:
    run("cosign", "import-key-pair", "-y", "--key", f"{WORK}/{name}.pem", "--output-key-prefix", f"{WORK}/{name}")
for name in ["release", "ed", "rsa"]:
    open(f"{HERE}/{name}.pub", "w").write(open(f"{WORK}/{name}.pub").read())
sbom = f"{WORK}/sbom.json"
json.dump({"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "app", "dataLicense": "CC0-1.0"}, open(sbom, "w"))

for key in ["release", "other", "ed", "rsa"]:
    cosign(f"tag-{key}", "app", key, True, "docker.io/signed/app")
    cosign(f"bundle-{key}", "app", key, False)
for form, old in [("tag", True), ("bundle", False)]:
    cosign(f"{form}-of-other", "other", "release", old)
    cosign(f"{form}-index", "index", "release", old)
    cosign(f"{form}-sbom", "app", "release", old, attest=sbom)
cosign("tag-elsewhere", "app", "release", True, "docker.io/signed/elsewhere")

app, other = place("app", "signed/app"), place("other", "signed/other")
run(f"{HERE}/bin/keyless", WORK, app.split(":")[1], other.split(":")[1])
for name in sorted(os.listdir(WORK)):
    if name.startswith("keyless"):
        bundle = open(f"{WORK}/{name}").read().strip()
        of = other if "of-other" in name else app
        subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 477, "digest": of}
        manifest = {"schemaVersion": 2, "mediaType": subject["mediaType"], "artifactType": BUNDLE, "subject": subject,
                    "config": describe("application/vnd.oci.empty.v1+json", "{}"), "layers": [describe(BUNDLE, bundle)]}
        beside[name.removesuffix(".json")] = {"manifest": json.dumps(manifest), "blobs": ["{}", bundle]}
for root in ["trusted-root.json", "early-root.json"]:
    open(f"{HERE}/{root}", "w").write(open(f"{WORK}/{root}").read())

run(f"{HERE}/bin/notary", WORK, WEIR)
for name in sorted(os.listdir(WORK)):
    if name.endswith(".digest"):
        image, digest = open(f"{WORK}/{name}").read().split()
        keep(name.removesuffix(".digest"), f"signed/{image}", digest)
open(f"{HERE}/notation-root.pem", "w").write(open(f"{WORK}/notation-root.pem").read())

with open(f"{HERE}/beside.json", "w") as out:
    json.dump(beside, out, indent=1)
    out.write("\n")
