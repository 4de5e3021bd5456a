// Package testca is a certificate authority for tests of services that speak TLS with each other. It stands beside the
// testkit, as it needs nothing of it; only tests import it.
package testca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues the certificates of services under test.
type Authority struct {
	// PEM is its own certificate.
	PEM []byte

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Certificate is one with its key, in PEM.
type Certificate struct {
	Cert, Key []byte
	Serial    string // in hexadecimal
}

// NewAuthority makes one.
func NewAuthority(tb testing.TB) *Authority {
	tb.Helper()
	a := &Authority{key: newECKey(tb)}
	a.certificate = template()
	a.certificate.Subject = pkix.Name{CommonName: "authority of the tests " + a.certificate.SerialNumber.Text(16)}
	a.certificate.IsCA, a.certificate.BasicConstraintsValid = true, true
	a.certificate.KeyUsage = x509.KeyUsageCertSign
	a.PEM = a.sign(tb, a.certificate, a.key)
	return a
}

// Issue makes a certificate for a service at 127.0.0.1, for an hour from a minute ago; change may change what it says.
func (a *Authority) Issue(tb testing.TB, change ...func(*x509.Certificate)) Certificate {
	tb.Helper()
	c := template()
	c.Subject = pkix.Name{CommonName: "service"}
	c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, apply := range change {
		apply(c)
	}
	key := newECKey(tb)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatalf("encode a key: %v", err)
	}
	return Certificate{
		Cert: a.sign(tb, c, key), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
		Serial: c.SerialNumber.Text(16),
	}
}

// Write puts tls.crt, tls.key and ca.crt into a directory, named as cert-manager does.
func (c Certificate) Write(tb testing.TB, dir string, authorities ...*Authority) {
	tb.Helper()
	var pool []byte
	for _, a := range authorities {
		pool = append(pool, a.PEM...)
	}
	for name, content := range map[string][]byte{"tls.crt": c.Cert, "tls.key": c.Key, "ca.crt": pool} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			tb.Fatalf("write a certificate: %v", err)
		}
	}
}

// Settings are the settings of a service whose certificate was written to a directory.
func Settings(dir string) map[string]string {
	return map[string]string{
		"TLS_CERT_FILE": filepath.Join(dir, "tls.crt"), "TLS_KEY_FILE": filepath.Join(dir, "tls.key"),
		"TLS_CA_FILE": filepath.Join(dir, "ca.crt"),
	}
}

func (a *Authority) sign(tb testing.TB, c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	tb.Helper()
	signed, err := x509.CreateCertificate(rand.Reader, c, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		tb.Fatalf("sign a certificate: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
}

func template() *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails (crypto/rand)
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func newECKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make a key: %v", err)
	}
	return key
}
