package mtls

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// material is what the three files held at one moment. It does not change.
type material struct {
	digest      [sha256.Size]byte
	certificate tls.Certificate
	authorities *x509.CertPool
	// The end of the certificate, and of the authority that ends first.
	ends, authorityEnds time.Time

	server, client *tls.Config
}

// read gives the content of the three files and a digest of all of it.
func (c Config) read() (contents [3][]byte, digest [sha256.Size]byte, err error) {
	sum := sha256.New()
	for i, file := range c.files() {
		content, err := os.ReadFile(file.path) // #nosec G304 -- the operator names the file
		if err != nil {
			return contents, digest, fmt.Errorf("%s: %w", file.setting, err)
		}
		contents[i] = content
		_, _ = fmt.Fprintf(sum, "%d ", len(content))
		_, _ = sum.Write(content)
	}
	return contents, [sha256.Size]byte(sum.Sum(nil)), nil
}

// load reads the files and refuses what cannot be used. A certificate that has expired is taken: who calls will see it.
func (c Config) load() (*material, error) {
	contents, digest, err := c.read()
	if err != nil {
		return nil, err
	}
	return newMaterial(contents, digest)
}

func newMaterial(contents [3][]byte, digest [sha256.Size]byte) (*material, error) {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		// It never repeats the key.
		return nil, fmt.Errorf("TLS_CERT_FILE and TLS_KEY_FILE are no certificate and its key: %w", err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if !allows(pair.Leaf, usage) {
			return nil, errors.New("TLS_CERT_FILE: the certificate must be for servers and for clients (extended key usages serverAuth and clientAuth)")
		}
	}
	m := &material{digest: digest, certificate: pair, ends: pair.Leaf.NotAfter}
	if err := m.readAuthorities(contents[2]); err != nil {
		return nil, fmt.Errorf("TLS_CA_FILE: %w", err)
	}
	m.configure()
	return m, nil
}

func allows(leaf *x509.Certificate, usage x509.ExtKeyUsage) bool {
	return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		slices.Contains(leaf.ExtKeyUsage, usage) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// readAuthorities takes nothing that it does not understand: an authority that is left out would be noticed only by those
// whose certificates come from it.
func (m *material) readAuthorities(content []byte) error {
	m.authorities = x509.NewCertPool()
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		authority, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return fmt.Errorf("holds a %s that is no certificate", block.Type)
		}
		if m.authorityEnds.IsZero() || authority.NotAfter.Before(m.authorityEnds) {
			m.authorityEnds = authority.NotAfter
		}
		m.authorities.AddCert(authority)
	}
	if m.authorityEnds.IsZero() {
		return errors.New("holds no certificate")
	}
	return nil
}

func (m *material) configure() {
	common := func() *tls.Config {
		return &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{m.certificate},
			// As without TLS: the servers drain connections of HTTP/1.1, each with a response that says so.
			NextProtos: []string{"http/1.1"},
			// A session that is taken up again would be as good as the certificates of before.
			SessionTicketsDisabled: true,
		}
	}
	m.server, m.client = common(), common()
	m.server.ClientCAs = m.authorities
	// Probes and Prometheus have no certificate; the internal API asks for one itself (Verified).
	m.server.ClientAuth = tls.VerifyClientCertIfGiven
	m.client.RootCAs = m.authorities
}
