// Makes signatures as Notation does, by certificates that exist only here.
package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go/registry"
	"oras.land/oras-go/v2/registry/remote"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

var serial int64

func certificate(subject pkix.Name, from, to time.Time, key crypto.Signer, parent *x509.Certificate, by crypto.Signer) *x509.Certificate {
	serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject, NotBefore: from, NotAfter: to, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if parent == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		parent = template
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by))
	return must(x509.ParseCertificate(der))
}

func name(common string) pkix.Name {
	return pkix.Name{CommonName: common, Organization: []string{"Acme, Inc."}, Country: []string{"US"}, Province: []string{"WA"}}
}

func main() {
	out, registryAt := os.Args[1], os.Args[2]
	ctx := context.Background()
	forever := time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)
	from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	rootKey, otherKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	root := certificate(name("root"), from, forever, rootKey, nil, rootKey)
	other := certificate(name("other root"), from, forever, otherKey, nil, otherKey)
	leafKey, rsaKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(rsa.GenerateKey(rand.Reader, 2048))
	leaf := certificate(name("signer"), from, forever, leafKey, root, rootKey)
	rsaLeaf := certificate(name("rsa signer"), from, forever, rsaKey, root, rootKey)
	expired := certificate(name("signer"), from, from.AddDate(1, 0, 0), leafKey, root, rootKey)
	untrusted := certificate(name("signer"), from, forever, leafKey, other, otherKey)
	if err := os.WriteFile(out+"/notation-root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o644); err != nil {
		panic(err)
	}
	for _, of := range []struct {
		name, image, form string
		key               crypto.Signer
		chain             []*x509.Certificate
		at, until         time.Time
	}{
		{"notation", "app", jws.MediaTypeEnvelope, leafKey, []*x509.Certificate{leaf, root}, time.Now(), time.Time{}},
		{"notation-rsa", "app", jws.MediaTypeEnvelope, rsaKey, []*x509.Certificate{rsaLeaf, root}, time.Now(), forever},
		{"notation-over", "app", jws.MediaTypeEnvelope, leafKey, []*x509.Certificate{leaf, root}, from.AddDate(0, 1, 0), from.AddDate(0, 2, 0)},
		{"notation-expired", "app", jws.MediaTypeEnvelope, leafKey, []*x509.Certificate{expired, root}, from.AddDate(0, 1, 0), time.Time{}},
		{"notation-untrusted", "app", jws.MediaTypeEnvelope, leafKey, []*x509.Certificate{untrusted, other}, time.Now(), time.Time{}},
		{"notation-of-other", "other", jws.MediaTypeEnvelope, leafKey, []*x509.Certificate{leaf, root}, time.Now(), time.Time{}},
	} {
		repository := must(remote.NewRepository(fmt.Sprintf("%s/signed/%s:latest", registryAt, of.image)))
		repository.PlainHTTP = true
		subject := must(repository.Resolve(ctx, "latest"))
		payload := must(json.Marshal(map[string]any{"targetArtifact": map[string]any{"mediaType": subject.MediaType, "digest": subject.Digest, "size": subject.Size}}))
		envelope := must(signature.NewEnvelope(of.form))
		signed := must(envelope.Sign(&signature.SignRequest{
			Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload},
			Signer:  must(signature.NewLocalSigner(of.chain, of.key)), SigningTime: of.at, Expiry: of.until,
			SigningScheme: signature.SigningSchemeX509, SigningAgent: "notation-go/1.3.2",
		}))
		_, manifest, err := registry.NewRepository(repository).PushSignature(ctx, of.form, signed, subject, nil)
		if err != nil {
			panic(err)
		}
		if err := os.WriteFile(out+"/"+of.name+".digest", []byte(of.image+" "+manifest.Digest.String()), 0o644); err != nil {
			panic(err)
		}
	}
}
