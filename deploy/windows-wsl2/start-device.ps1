#Requires -Version 5.1
<#
.SYNOPSIS
Runs `orchestrate join --block` inside WSL2, and starts it again when it ends. For the task of register-logon-task.ps1.
.PARAMETER PortProxyAddress
Without mirrored networking: the address of Windows in the cluster's network. Needs an elevated PowerShell.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $HeadAddress,
    [string] $Distribution = 'Ubuntu',
    [string] $Options = '',
    [string] $PortProxyAddress = ''
)
$ErrorActionPreference = 'Stop'
$pauseSeconds = 30
$words = @($Options -split '\s+' | Where-Object { $_ })
if ($PortProxyAddress) { $words += @('--address', $PortProxyAddress) }

while ($true) {
    try {
        if ($PortProxyAddress) {
            & (Join-Path $PSScriptRoot 'portproxy.ps1') -Address $PortProxyAddress -Distribution $Distribution
        }
        # While this runs, WSL2 stays up. No double quotes inside: Windows PowerShell 5.1 would lose them.
        wsl.exe --distribution $Distribution --exec /bin/sh -c 'exec ~/orchestrate/bin/orchestrate join $@ --block' join $HeadAddress $words
        Write-Output "orchestrate ended with code $LASTEXITCODE"
    } catch {
        Write-Output "not started: $_"
    }
    Write-Output "it is started again in $pauseSeconds s"
    Start-Sleep -Seconds $pauseSeconds
}
