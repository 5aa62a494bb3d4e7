{{/* Names, labels, and what several templates share. */}}

{{- define "studovna.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "studovna" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-studovna" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What selects a pod: never changes over upgrades. Takes a list: the context, the component. */}}
{{- define "studovna.selector" -}}
app.kubernetes.io/name: studovna
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object. Pods carry the selector only, so that a new chart restarts none by itself. */}}
{{- define "studovna.labels" -}}
{{- $root := index . 0 -}}
{{ include "studovna.selector" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "studovna.buildsNamespace" -}}
{{- .Values.builds.namespace | default (printf "%s-builds" .Release.Namespace) -}}
{{- end }}

{{/* "true" when repositories with a Dockerfile are built, and where. */}}
{{- define "studovna.dockerfiles" -}}
{{- if and (include "studovna.binder" .) (.Values.site.binder | default dict).dockerfiles }}true{{ end -}}
{{- end }}

{{- define "studovna.dockerfilesNamespace" -}}
{{- printf "%s-dockerfiles" .Release.Namespace -}}
{{- end }}

{{/* The namespaces that builds run in, as a JSON list of their names and components. */}}
{{- define "studovna.buildNamespaces" -}}
{{- $found := list (dict "name" (include "studovna.buildsNamespace" .) "part" "builds") -}}
{{- if include "studovna.dockerfiles" . -}}
{{- $found = append $found (dict "name" (include "studovna.dockerfilesNamespace" .) "part" "dockerfiles") -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- define "studovna.secretName" -}}
{{- .Values.secrets.existingSecret | default (include "studovna.fullname" .) -}}
{{- end }}

{{/* "true" when Binder runs, and when the registry of the chart does. */}}
{{- define "studovna.binder" -}}
{{- $binder := .Values.site.binder | default dict -}}
{{- if (hasKey $binder "enabled" | ternary $binder.enabled true) }}true{{ end -}}
{{- end }}

{{- define "studovna.registry" -}}
{{- if and (include "studovna.binder" .) (not .Values.site.registry) }}true{{ end -}}
{{- end }}

{{/* "true" when each person has a namespace. */}}
{{- define "studovna.personNamespaces" -}}
{{- if eq ((.Values.site.cluster | default dict).namespaces | default "shared") "person" }}true{{ end -}}
{{- end }}

{{/* Whether servers may run jobs in their person's namespace. */}}
{{- define "studovna.jobs" -}}
{{- if .Values.rbac.jobs.enabled }}
{{- if not (include "studovna.personNamespaces" .) }}{{ fail "\n\nrbac.jobs needs a namespace for each person: set site.cluster.namespaces: person, or rbac.jobs.enabled: false.\n" }}{{ end }}
{{- if not .Values.rbac.jobs.apiServer }}{{ fail "\n\nrbac.jobs.apiServer is empty: name the addresses of the API server, such as [10.96.0.1/32, 192.0.2.10/32]; `kubectl get service,endpoints kubernetes` shows them.\n" }}{{ end -}}
true
{{- end -}}
{{- end }}

{{- define "studovna.jobsRole" -}}
{{ .Release.Namespace }}-{{ include "studovna.fullname" . }}-jobs
{{- end }}

{{/* The host and the scheme of the address that people use. */}}
{{- define "studovna.host" -}}
{{- with .Values.site.public_url }}{{ (urlParse .).hostname | trimPrefix "[" | trimSuffix "]" }}{{ end -}}
{{- end }}

{{- define "studovna.https" -}}
{{- if hasPrefix "https://" (.Values.site.public_url | default "") }}true{{ end -}}
{{- end }}

{{/* Takes a list: the context, hub or binder. */}}
{{- define "studovna.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- get $root.Values.images $name | default (printf "%s/%s:%s" $root.Values.site.images $name $root.Values.images.tag) -}}
{{- end }}

{{- define "studovna.pullSecret" -}}
{{- .Values.registry.pullSecret | default (printf "%s-pull" (include "studovna.fullname" .)) -}}
{{- end }}

{{/* What makes no site that works is refused here, in a sentence. */}}
{{- define "studovna.check" -}}
{{- $site := .Values.site -}}
{{- if not $site.auth -}}
{{- fail "\n\nsite.auth is not set: choose how people sign in, for example\n  site: {auth: {type: openid-connect, …}}\nor, for a trial among people who trust each other,\n  site: {auth: {type: shared-password, admins: [admin]}}\nSee docs/cluster.md.\n" -}}
{{- end -}}
{{- if not $site.auth.type -}}
{{- fail "\n\nsite.auth.type is not set: on a cluster the way to sign in is named, such as openid-connect or shared-password.\n" -}}
{{- end -}}
{{- if not $site.images -}}
{{- fail "\n\nsite.images is not set: name the registry and folder that `studovna images push --to …` has filled, such as registry.example.org/studovna.\n" -}}
{{- end -}}
{{- if not .Values.images.tag -}}
{{- fail "\n\nimages.tag is not set: give the tag that `studovna images push --to …` has printed. With it an upgrade brings the new images, and a rollback the old ones.\n" -}}
{{- end -}}
{{- if ($site.cluster | default dict).images -}}
{{- fail "\n\nsite.cluster.images is what the chart sets from images.pushed. Set that one, and remove the line.\n" -}}
{{- end -}}
{{- if ($site.cluster | default dict).image_tag -}}
{{- fail "\n\nsite.cluster.image_tag is what the chart sets from images.tag. Set that one, and remove the line.\n" -}}
{{- end -}}
{{- if eq ($site.engine | default "kubernetes") "podman" -}}
{{- fail "\n\nsite.engine is podman: this chart runs servers on the cluster. Remove the line.\n" -}}
{{- end -}}
{{- if $site.bind -}}
{{- fail "\n\nsite.bind is for one machine: on a cluster people come in by service, ingress or gateway. Remove the line, and set site.public_url.\n" -}}
{{- end -}}
{{- if $site.profiles -}}
{{- fail "\n\nsite.profiles is a folder on one machine: on a cluster give profiles under `profiles:`, or with --set-file profiles.NAME=FILE.\n" -}}
{{- end -}}
{{- if and (or .Values.ingress.enabled .Values.gateway.enabled) (not $site.public_url) -}}
{{- fail "\n\nsite.public_url is not set: the Ingress and the Gateway need the host that people use, such as https://hub.example.org.\n" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) (not .Values.gateway.className) -}}
{{- fail "\n\ngateway.parentRefs and gateway.className are both empty: name the Gateway that leads here, or the class of the one to make.\n" -}}
{{- end -}}
{{- if and .Values.gateway.enabled .Values.service.tlsSecret -}}
{{- fail "\n\ngateway.enabled is true, and service.tlsSecret is set: a Gateway speaks http to the proxy. Name the certificate as gateway.tlsSecret.\n" -}}
{{- end -}}
{{- if and .Values.database.url .Values.database.existingSecret.name -}}
{{- fail "\n\ndatabase.url and database.existingSecret.name are both set: give one of them.\n" -}}
{{- end -}}
{{- if and .Values.secrets.existingSecret .Values.secrets.values -}}
{{- fail "\n\nsecrets.existingSecret and secrets.values are both set: give one of them.\n" -}}
{{- end -}}
{{- with $site.registry -}}
{{- if and .username (not .password_file) -}}
{{- fail "\n\nsite.registry.username is set, but site.registry.password_file is not: set it to /srv/studovna/secrets/registry-push-password, and give secrets.values.registry-push-password.\n" -}}
{{- end -}}
{{- end -}}
{{- range include "studovna.siteFiles" . | fromJsonArray -}}
{{- if not (hasPrefix "/srv/studovna/secrets/" .path) -}}
{{- fail (printf "\n\n%s is %s: on a cluster such files are a part of the site's Secret. Set it to /srv/studovna/secrets/%s, and give secrets.values.%s (--set-file).\n" .key .path .name .name) -}}
{{- end -}}
{{- if not (or $.Values.secrets.existingSecret (hasKey $.Values.secrets.values .name)) -}}
{{- fail (printf "\n\n%s is set, but secrets.values.%s is not.\n" .key .name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* site.yaml as the pods read it. */}}
{{- define "studovna.site" -}}
{{- $site := deepCopy .Values.site -}}
{{- $_ := set $site "engine" "kubernetes" -}}
{{- $_ := set $site "profiles" "profiles" -}}
{{- /* What it takes from the catalogue is among the profiles already. */}}
{{- $_ := unset $site "catalogue" -}}
{{- $cluster := set ($site.cluster | default dict) "image_tag" .Values.images.tag -}}
{{- $_ := set $site "cluster" $cluster -}}
{{- if .Values.images.pushed -}}
{{- $_ := set $cluster "images" .Values.images.pushed -}}
{{- end -}}
{{- $secrets := concat ($cluster.pull_secrets | default list) .Values.images.pullSecrets -}}
{{- if include "studovna.registry" . -}}
{{- $secrets = append $secrets (include "studovna.pullSecret" .) -}}
{{- end -}}
{{- if $secrets -}}
{{- $_ := set $cluster "pull_secrets" ($secrets | uniq) -}}
{{- end -}}
{{ toYaml $site }}
{{- end }}

{{/* The profiles as JSON: name → text. Files keep the order of their choices. */}}
{{- define "studovna.profiles" -}}
{{- $texts := dict -}}
{{- range $path, $_ := .Files.Glob "profiles/*.yaml" -}}
{{- $_ := set $texts (base $path | trimSuffix ".yaml") ($.Files.Get $path) -}}
{{- end -}}
{{- range $name := .Values.site.catalogue | default list -}}
{{- $text := $.Files.Get (printf "profiles/catalogue/%s.yaml" $name) -}}
{{- if not $text -}}
{{- $known := list -}}
{{- range $path, $_ := $.Files.Glob "profiles/catalogue/*.yaml" -}}
{{- $known = append $known (base $path | trimSuffix ".yaml") -}}
{{- end -}}
{{- fail (printf "\n\nsite.catalogue names %s, and the catalogue has: %s.\n" $name (join ", " $known)) -}}
{{- end -}}
{{- $_ := set $texts $name $text -}}
{{- end -}}
{{- range $name, $profile := .Values.profiles -}}
{{- if kindIs "invalid" $profile -}}
{{- $_ := unset $texts $name -}}
{{- else if kindIs "string" $profile -}}
{{- $_ := set $texts $name $profile -}}
{{- else -}}
{{- $_ := set $texts $name (toYaml $profile) -}}
{{- end -}}
{{- end -}}
{{ toJson $texts }}
{{- end }}

{{/* Every image that a profile or one of its choices names, in full, as a JSON list. */}}
{{- define "studovna.profileImages" -}}
{{- $found := list -}}
{{- range $name, $text := include "studovna.profiles" . | fromJson -}}
{{- $profile := fromYaml $text -}}
{{- with $profile.Error }}{{ fail (printf "\n\nprofiles.%s is no YAML: %s\n" $name .) }}{{ end -}}
{{- $found = append $found $profile.image -}}
{{- $web := $profile.web -}}
{{- range $profile.options -}}
{{- $web = or $web (.unlisted | default dict).web -}}
{{- range .choices }}{{ $found = append $found .image }}{{ $web = or $web .web }}{{ end -}}
{{- end -}}
{{- if $web }}{{ $found = append $found "sidecar" }}{{ end -}}
{{- end -}}
{{- $images := list -}}
{{- range without (compact $found | uniq) "" -}}
{{- $here := or (not $.Values.images.pushed) (contains "/" .) (has . $.Values.images.pushed) -}}
{{- if and $here (not (or (contains "{" .) (has . $.Values.prePuller.skip))) -}}
{{- $images = append $images (contains "/" . | ternary . (printf "%s/%s:%s" $.Values.site.images . $.Values.images.tag)) -}}
{{- end -}}
{{- end -}}
{{ toJson (concat $images .Values.prePuller.images | uniq | sortAlpha) }}
{{- end }}

{{/*
The data of the site's Secret: what is given, else what is there, else made now. Rendered once, so
that every template sees the same values.
*/}}
{{- define "studovna.secretData" -}}
{{- if not (hasKey .Values "_secrets") -}}
{{- $name := include "studovna.secretName" . -}}
{{- $there := (lookup "v1" "Secret" .Release.Namespace $name | default dict).data | default dict -}}
{{- $made := dict -}}
{{- range list "cookie-secret" "crypt-key" "proxy-token" "build-token-secret" "registry-password" "registry-pull-password" -}}
{{- $_ := set $made . (randAlphaNum 64 | sha256sum) -}}
{{- end -}}
{{- /* JupyterHub refuses tokens of exactly 64 characters: those look like its own hashes. */ -}}
{{- range list "service-token-operator" "service-token-binder" "service-token-metrics" -}}
{{- $_ := set $made . (randAlphaNum 48) -}}
{{- end -}}
{{- $_ := set $made "password-people" (randAlphaNum 20 | lower) -}}
{{- $_ := set $made "password-admin" (randAlphaNum 36 | lower) -}}
{{- $data := dict -}}
{{- if .Values.secrets.existingSecret -}}
{{- if $there -}}
{{- range $key, $_ := $made -}}
{{- if not (hasKey $there $key) -}}
{{- fail (printf "\n\nThe Secret %s in namespace %s has no key %s; docs/cluster.md lists what it holds.\n" $name $.Release.Namespace $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $data = $there -}}
{{- else -}}
{{- range $key, $value := $made }}{{ $_ := set $data $key (b64enc $value) }}{{ end -}}
{{- $data = merge (dict) $there $data -}}
{{- range $key, $value := .Values.secrets.values }}{{ $_ := set $data $key (b64enc $value) }}{{ end -}}
{{- with .Values.database.url }}{{ $_ := set $data "db-url" (b64enc .) }}{{ end -}}
{{- end -}}
{{- $_ := set .Values "_secrets" $data -}}
{{- end -}}
{{ toYaml .Values._secrets }}
{{- end }}

{{/* A checksum of some of the Secret's values, for a pod that reads them. A list: context, keys. */}}
{{- define "studovna.secretSum" -}}
{{- $data := include "studovna.secretData" (index . 0) | fromYaml -}}
{{- $chosen := dict -}}
{{- range index . 1 }}{{ $_ := set $chosen . (get $data . | default "") }}{{ end -}}
{{- toJson $chosen | sha256sum -}}
{{- end }}

{{/* The files that the settings name, as JSON: key, path, and the name in the site's Secret. */}}
{{- define "studovna.siteFiles" -}}
{{- $site := .Values.site -}}
{{- $found := list -}}
{{- range $key, $path := dict
  "site.auth.client_secret_file" ($site.auth | default dict).client_secret_file
  "site.registry.password_file" ($site.registry | default dict).password_file
  "site.binder.ssh_key_file" ($site.binder | default dict).ssh_key_file
  "site.binder.ssh_known_hosts_file" ($site.binder | default dict).ssh_known_hosts_file -}}
{{- with $path }}{{ $found = append $found (dict "key" $key "path" . "name" (base .)) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{/*
The names of secrets that a pod reads, as a JSON list: its own, and the files of the settings, which
are all checked when the settings are read. A list: the context, names.
*/}}
{{- define "studovna.secretNames" -}}
{{- $names := index . 1 -}}
{{- range include "studovna.siteFiles" (index . 0) | fromJsonArray }}{{ $names = append $names .name }}{{ end -}}
{{ toJson ($names | uniq | sortAlpha) }}
{{- end }}

{{/* --- parts of pods --- */}}

{{- define "studovna.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "studovna.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may run, and its images' login. A list: the context, the component's values. */}}
{{- define "studovna.placement" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- with $part.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with $part.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The environment of the hub, Binder and the registry. */}}
{{- define "studovna.env" -}}
- {name: STUDOVNA_SITE, value: /etc/studovna/site.yaml}
- {name: STUDOVNA_HOME, value: /srv/studovna}
- {name: STUDOVNA_RELEASE, value: {{ include "studovna.fullname" . | quote }}}
- {name: STUDOVNA_INSTANCE, value: {{ .Release.Name | quote }}}
- {name: STUDOVNA_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
- {name: STUDOVNA_BUILDS_NAMESPACE, value: {{ include "studovna.buildsNamespace" . | quote }}}
{{- if include "studovna.dockerfiles" . }}
- {name: STUDOVNA_DOCKERFILES_NAMESPACE, value: {{ include "studovna.dockerfilesNamespace" . | quote }}}
{{- end }}
{{- if include "studovna.jobs" . }}
- {name: STUDOVNA_JOBS_ROLE, value: {{ include "studovna.jobsRole" . | quote }}}
{{- end }}
{{- if include "studovna.registry" . }}
- {name: STUDOVNA_REGISTRY_PORT, value: {{ .Values.registry.nodePort | quote }}}
- {name: STUDOVNA_REGISTRY_URL, value: "http://{{ include "studovna.fullname" . }}-registry.{{ .Release.Namespace }}.svc:5000"}
{{- end }}
{{- if .Values.caConfigMap }}
- {name: SSL_CERT_FILE, value: /etc/studovna-ca/ca.crt}
{{- end }}
- {name: HOME, value: /tmp}
{{- end }}

{{/* A map of names and values as environment. */}}
{{- define "studovna.moreEnv" -}}
{{- range $name, $value := . }}
- {name: {{ $name }}, value: {{ $value | toString | quote }}}
{{- end }}
{{- end }}

{{/* The Secret's items as files. A list: the context, names. */}}
{{- define "studovna.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ include "studovna.secretName" (index . 0) }}
    defaultMode: 0440
    items:
      {{- range index . 1 }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}

{{/* The kinds of a Service's addresses. */}}
{{- define "studovna.families" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.ipFamilies }}
ipFamilies: {{ toJson . }}
{{- end }}
{{- end }}

{{/* The settings and profiles, as the folder that one machine has. */}}
{{- define "studovna.siteVolume" -}}
- name: site
  configMap:
    name: {{ include "studovna.fullname" . }}
    items:
      - {key: site.yaml, path: site.yaml}
      {{- if .Values.images.registriesConf }}
      - {key: registries.conf, path: registries.conf}
      {{- end }}
      {{- if include "studovna.personNamespaces" . }}
      - {key: namespace.json, path: namespace.json}
      {{- end }}
      {{- range $name, $_ := include "studovna.profiles" . | fromJson }}
      - {key: profile.{{ $name }}.yaml, path: profiles/{{ $name }}.yaml}
      {{- end }}
{{- with .Values.caConfigMap }}
- name: ca
  configMap: {name: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}

{{/* Where the settings are, and what the parts trust. */}}
{{- define "studovna.siteMounts" -}}
- {name: site, mountPath: /etc/studovna, readOnly: true}
{{- if .Values.caConfigMap }}
- {name: ca, mountPath: /etc/studovna-ca, readOnly: true}
{{- end }}
{{- end }}

{{/* A volume that outlives the release. A list: the context, hub, binder or registry. */}}
{{- define "studovna.claim" }}
{{- $root := index . 0 }}
{{- $storage := (get $root.Values (index . 1)).storage }}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "studovna.fullname" $root }}-{{ index . 1 }}
  labels: {{- include "studovna.labels" . | nindent 4 }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  accessModes: [{{ $storage.accessMode }}]
  {{- with $storage.class }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ $storage.size }}}}
{{- end }}

{{/* A checksum of the settings and profiles. */}}
{{- define "studovna.siteSum" -}}
{{- printf "%s\n%s\n%s" (include "studovna.site" .) (include "studovna.profiles" .) .Values.images.registriesConf | sha256sum -}}
{{- end }}

{{/* What the hub does with people's servers and homes. */}}
{{- define "studovna.serverRules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, create, delete]
# What a server said before it ended, and why one waits.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}
