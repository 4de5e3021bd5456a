package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
)

// WriteText tells a person what happened. The secret is in it if one was issued: it must go to the
// operator's terminal and nowhere else.
func (r Result) WriteText(w io.Writer) error {
	text := fmt.Sprintf("The operator exists: %s (%s). Nothing was changed.\n"+
		"Its secret was shown when it was issued and cannot be shown again; `bootstrap --new-secret` issues another.\n",
		r.Agent.AgentID, r.Agent.Email)
	if r.Issued() {
		head := "The operator was created"
		if !r.AgentCreated {
			head = "A new credential was issued to the operator"
		}
		text = fmt.Sprintf("%s: %s\n\n  client_id      %s\n  client_secret  %s\n\nKeep the secret now: it is not shown again.\n",
			head, r.Agent.Email, r.Agent.AgentID, r.ClientSecret.Reveal())
	}
	_, err := io.WriteString(w, text)
	return err
}

// WriteKept tells a person that the credential is in store, and shows no secret.
func (r Result) WriteKept(w io.Writer, store Store) error {
	head := "The operator was created"
	if !r.AgentCreated {
		head = "The operator exists; a new credential was issued to it, and those that it had go on"
	}
	_, err := fmt.Fprintf(w, "%s: %s (%s).\nCredential %s is kept in %s.\n",
		head, r.Agent.AgentID, r.Agent.Email, r.CredentialID, store)
	return err
}

// WriteJSON is WriteText for programs: one object on one line.
func (r Result) WriteJSON(w io.Writer) error {
	out := struct {
		ClientID          string `json:"clientId"`
		ClientSecret      string `json:"clientSecret,omitempty"`
		CredentialID      string `json:"credentialId,omitempty"`
		Email             string `json:"email"`
		Owner             string `json:"owner"`
		AgentCreated      bool   `json:"agentCreated"`
		CredentialCreated bool   `json:"credentialCreated"`
	}{
		ClientID: r.Agent.AgentID.String(), ClientSecret: r.ClientSecret.Reveal(),
		Email: r.Agent.Email, Owner: r.Agent.Owner,
		AgentCreated: r.AgentCreated, CredentialCreated: r.Issued(),
	}
	if r.Issued() {
		out.CredentialID = r.CredentialID.String()
	}
	return json.NewEncoder(w).Encode(out) //nolint:gosec // showing the secret once is the purpose
}
