package auth

import (
	"net/http"
	"strings"
)

// CheckSecret says whether secret, a hash, was made from password.
func CheckSecret(password, secret string) bool {
	matches := compareFuncs[0].compare
	for _, kind := range compareFuncs[1:] {
		if strings.HasPrefix(secret, kind.prefix) {
			matches = kind.compare
			break
		}
	}
	return matches([]byte(secret), []byte(password)) == nil
}

// RequireAuthStale asks for another answer as RequireAuth does.
func (da *DigestAuth) RequireAuthStale(w http.ResponseWriter, r *http.Request) {
	da.RequireAuth(w, r)
}
