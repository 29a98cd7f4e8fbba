// Makes bundles as cosign and GitHub do without keys, by authorities that exist only here, and the trusted root that names them.
package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func write(virtual *ca.VirtualSigstore, out, name, identity, issuer, predicate, digest string) {
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":{}}`, digest, predicate)
	entity := must(virtual.AttestHashedRekordV2(identity, issuer, []byte(statement)))
	content := must(entity.VerificationContent())
	signature := must(entity.SignatureContent()).(*bundle.Envelope)
	var entries []*rekor.TransparencyLogEntry
	for _, entry := range must(entity.TlogEntries()) {
		entries = append(entries, entry.TransparencyLogEntry())
	}
	var times []*common.RFC3161SignedTimestamp
	for _, at := range must(entity.Timestamps()) {
		times = append(times, &common.RFC3161SignedTimestamp{SignedTimestamp: at})
	}
	made := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &common.X509Certificate{RawBytes: content.Certificate().Raw}},
			TlogEntries:               entries,
			TimestampVerificationData: &protobundle.TimestampVerificationData{Rfc3161Timestamps: times},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload:     must(base64.StdEncoding.DecodeString(signature.Envelope.Payload)),
			PayloadType: signature.Envelope.PayloadType,
			Signatures:  []*protodsse.Signature{{Sig: must(base64.StdEncoding.DecodeString(signature.Envelope.Signatures[0].Sig))}},
		}},
	}
	text := must(protojson.Marshal(made))
	var compact any
	if err := json.Unmarshal(text, &compact); err != nil {
		panic(err)
	}
	if err := os.WriteFile(out+"/"+name+".json", append(must(json.Marshal(compact)), '\n'), 0o644); err != nil {
		panic(err)
	}
}

// The windows of the authorities are an hour long; a fixture is to be good for ever.
func writeRoot(virtual *ca.VirtualSigstore, out, name string) {
	trusted := must(root.NewTrustedRoot(root.TrustedRootMediaType01, virtual.FulcioCertificateAuthorities(), nil, virtual.TimestampingAuthorities(), virtual.RekorLogs()))
	text := must(trusted.MarshalJSON())
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		panic(err)
	}
	for _, key := range []string{"certificateAuthorities", "timestampAuthorities"} {
		for _, authority := range document[key].([]any) {
			delete(authority.(map[string]any)["validFor"].(map[string]any), "end")
		}
	}
	for _, log := range document["tlogs"].([]any) {
		delete(log.(map[string]any)["publicKey"].(map[string]any)["validFor"].(map[string]any), "end")
		// The identifier is written in hexadecimal digits where its bytes belong.
		id := log.(map[string]any)["logId"].(map[string]any)
		digits := must(base64.StdEncoding.DecodeString(id["keyId"].(string)))
		id["keyId"] = base64.StdEncoding.EncodeToString(must(hex.DecodeString(string(digits))))
	}
	if err := os.WriteFile(out+"/"+name+".json", append(must(json.Marshal(document)), '\n'), 0o644); err != nil {
		panic(err)
	}
}

func main() {
	out, app, other := os.Args[1], os.Args[2], os.Args[3]
	const issuer, identity, signed = "https://issuer.example", "release@example.com", "https://sigstore.dev/cosign/sign/v1"
	virtual, untrusted := must(ca.NewVirtualSigstore()), must(ca.NewVirtualSigstore())
	write(virtual, out, "keyless", identity, issuer, signed, app)
	write(virtual, out, "keyless-provenance", identity, issuer, "https://slsa.dev/provenance/v1", app)
	write(virtual, out, "keyless-of-other", identity, issuer, signed, other)
	write(untrusted, out, "keyless-untrusted", identity, issuer, signed, app)
	writeRoot(virtual, out, "trusted-root")
	// A certificate is valid for ten minutes. This variable is what make.py adds to the package.
	ca.LeafFrom = func() time.Time { return time.Now().Add(-time.Hour) }
	write(virtual, out, "keyless-expired", identity, issuer, signed, app)
	early := must(ca.NewVirtualSigstore())
	ca.LeafFrom = func() time.Time { return time.Now().Add(time.Minute) }
	write(early, out, "keyless-early", identity, issuer, signed, app)
	writeRoot(early, out, "early-root")
}
